"""Priors: a map from parameters to distributions."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, Laplace, Normal, constraints

from jaxmap.model.kinks import ElasticNet, Kink, is_log_concave, kink_of, smooth_log_prob, soft_threshold
from jaxmap.model.losses import loss_scale
from jaxmap.model.rules import Flat, Row, Rule, check_distribution, flat, match_rules, resolve
from jaxmap.trees import at_path, broadcast_prefix, named_leaves, paths
from jaxmap.types import Key, Params


class Prior:
    """A map from parameters to distributions, and itself the function params -> log density, shape ().

    log_prior(params) = sum over leaves and their entries of log p(entry), normalising constants kept. A leaf under
    `flat` adds zero.

    Args:
        rules: one distribution for all leaves, or a pytree prefix of the parameters whose leaves are a
            distribution, `flat`, another Prior (for its subtree), or a function `params -> Distribution` for
            hierarchies (its support must not depend on the parameters).

    Raises:
        ValueError: a distribution with impossible arguments (a negative scale).
        TypeError: a rule of another kind.
    """

    def __init__(self, rules: Any):
        if rules is None:
            raise TypeError("Expected a distribution, jm.flat or a tree of them as a prior; got None. Write jm.flat.")
        self.rules = jax.tree.map(_as_rule, rules, is_leaf=_is_rule)
        self.patterns: dict[str, Rule] | None = None

    @classmethod
    def by_path(cls, patterns: Mapping[str, Any]) -> "Prior":
        """Choose the rule of each leaf by its path, with shell wildcards: `{"*/kernel": dist.Normal(0, 1)}`.

        The pattern with the most literal characters wins; `*/kernel` also matches a `kernel` at the root.
        """
        if not isinstance(patterns, Mapping):
            raise TypeError(f"Expected a dict of path patterns and priors; got {patterns!r}.")
        prior = cls(flat)
        prior.patterns = {pattern: _as_rule(rule) for pattern, rule in patterns.items()}
        return prior

    def __call__(self, params: Params) -> Float[Array, ""]:
        """Sum the log density of all leaves."""
        return sum(self.terms(params), start=jnp.asarray(0.0))

    def terms(self, params: Params) -> list[Float[Array, ""]]:
        """The log density of each leaf given the others, in flattening order; zero where it is flat."""
        made = [(row.leaf, resolve(row, params)) for row in self._rows(params)]
        return [jnp.asarray(0.0) if found is None else jnp.sum(found.log_prob(leaf)) for leaf, found in made]

    def smooth(self, params: Params) -> Float[Array, ""]:
        """Sum the log density of all leaves without its kinks, the terms -weight |b - center| of L1 priors."""
        made = [(row.leaf, resolve(row, params)) for row in self._rows(params)]
        terms = [jnp.sum(smooth_log_prob(found, leaf)) for leaf, found in made if found is not None]
        return sum(terms, start=jnp.asarray(0.0))

    def is_log_concave(self, params: Params, *, strongly: bool = False) -> bool:
        """True where every rule is a Gaussian, an elastic net, or unless `strongly` a Laplace prior or flat."""
        rules = [row.rule for row in self._rows(params)]
        return all(not strongly if isinstance(r, Flat) else is_log_concave(r, strongly=strongly) for r in rules)

    def is_separable(self, params: Params) -> bool:
        """True where the log density is a sum over single parameters: each leaf is flat or of independent entries."""
        rules = [row.rule for row in self._rows(params)]
        return all(isinstance(r, Flat) or (isinstance(r, Distribution) and r.event_dim == 0) for r in rules)

    def kinks(self, params: Params) -> list[Kink | None]:
        """The kink of each leaf in flattening order, None where the prior is smooth.

        Raises:
            TypeError: an L1 prior inside a hierarchy; its scale would have to stand still.
        """
        kinks = []
        for row in self._rows(params):
            found = resolve(row, params)
            kink = None if found is None else kink_of(found)
            if kink is not None and not isinstance(row.rule, Distribution):
                raise TypeError(
                    f"Expected an L1 prior of fixed scale for a point estimate; got a function for {row.path!r}. "
                    "Its joint mode is at scale zero: give it a number, or sample with jm.NUTS()."
                )
            kinks.append(kink)
        return kinks

    def proximal(self, params: Params, step: float) -> Params:
        """The proximal map of the kinks: soft thresholding by step x weight, leaf by leaf; the identity elsewhere."""
        leaves, treedef = jax.tree.flatten(params)
        pairs = zip(leaves, self.kinks(params), strict=True)
        return treedef.unflatten([v if k is None else soft_threshold(v, k, step) for v, k in pairs])

    @property
    def is_flat(self) -> bool:
        """True where every rule is flat."""
        rules = self.patterns or self.rules
        leaves = jax.tree.leaves(rules, is_leaf=_is_rule)
        return all(isinstance(rule, Flat) or (isinstance(rule, Prior) and rule.is_flat) for rule in leaves)

    def support(self, params: Params) -> Params:
        """The support of each leaf of parameters like `params`: a tree of constraints."""
        made = [resolve(row, params) for row in self._rows(params)]
        supports = [constraints.real if distribution is None else distribution.support for distribution in made]
        return jax.tree.structure(params).unflatten(supports)

    def sample(self, key: Key, params: Params) -> Params:
        """Draw parameters shaped like `params`.

        A hierarchy is drawn from its roots: functions of the parameters are evaluated once more per level.

        Raises:
            ValueError: a leaf is flat, so there is nothing to draw from.
        """
        rows = self._rows(params)
        leaves = [row.leaf for row in rows]
        keys = jax.random.split(key, max(len(rows), 1))
        levels = 1 + sum(not isinstance(row.rule, Distribution) for row in rows)
        for _ in range(levels):
            drawn = jax.tree.structure(params).unflatten(leaves)
            for i, row in enumerate(rows):
                distribution = resolve(row, drawn)
                if distribution is None:
                    raise ValueError(f"Expected a proper prior to sample from; {row.path!r} is flat. Give it one.")
                batch = jnp.shape(row.leaf)[: jnp.ndim(row.leaf) - distribution.event_dim]
                leaves[i] = jnp.asarray(distribution.expand(batch).sample(keys[i]), jnp.result_type(row.leaf))
        return jax.tree.structure(params).unflatten(leaves)

    def table(self, params: Params) -> str:
        """Print leaf, distribution and size for parameters like `params`."""
        rows = [(row.path, _describe(row.rule), str(int(np.prod(jnp.shape(row.leaf))))) for row in self._rows(params)]
        rows.insert(0, ("leaf", "distribution", "size"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)

    def as_weight_decay(
        self,
        *,
        per: str = "sum",
        num_examples: int | None = None,
        loss: str = "nll",
        noise_scale: float | None = None,
    ) -> Any:
        """Say which weight decay this Gaussian prior is: the inverse of `weight_decay`.

        Returns:
            strength: a float, or one float per rule where there are several. Zero for `flat`.

        Raises:
            ValueError: a rule that is not a zero-mean Gaussian with one scale.
        """
        return self._strengths(loss_scale(per, num_examples, loss, noise_scale), "l2")

    def as_l1(
        self,
        *,
        per: str = "sum",
        num_examples: int | None = None,
        loss: str = "nll",
        noise_scale: float | None = None,
    ) -> Any:
        """Say which L1 penalty this Laplace prior is: the inverse of `l1`; returns and raises likewise."""
        return self._strengths(loss_scale(per, num_examples, loss, noise_scale), "l1")

    def as_elastic_net(
        self,
        *,
        per: str = "sum",
        num_examples: int | None = None,
        loss: str = "nll",
        noise_scale: float | None = None,
    ) -> Any:
        """Say which (l1, l2) this prior is: the inverse of `elastic_net`; returns and raises likewise."""
        return self._strengths(loss_scale(per, num_examples, loss, noise_scale), "both")

    def _strengths(self, scale: float, kind: str) -> Any:
        def strength(rule: Any) -> Any:
            if isinstance(rule, Prior):
                return rule._strengths(scale, kind)
            l1, l2 = _penalty_of(rule)
            wrong = (kind == "l2" and l1) or (kind == "l1" and l2)
            if wrong or np.isnan(l1 + l2):
                wanted = {"l1": "Laplace prior", "l2": "Gaussian", "both": "Gaussian, Laplace or elastic-net prior"}
                raise ValueError(f"Expected a zero-mean {wanted[kind]} with one scale; got {_describe(rule)}.")
            return {"l1": l1 / scale, "l2": l2 / scale, "both": (l1 / scale, l2 / scale)}[kind]

        rules = self.rules if self.patterns is None else self.patterns
        return jax.tree.map(strength, rules, is_leaf=_is_rule)

    def __repr__(self) -> str:
        if self.patterns is not None:
            inside = ", ".join(f"{pattern!r}: {_describe(rule)}" for pattern, rule in self.patterns.items())
            return f"Prior.by_path({{{inside}}})"
        named = named_leaves(self.rules, is_leaf=_is_rule)
        if len(named) == 1 and not named[0][0]:
            return f"Prior({_describe(named[0][1])})"
        return "Prior({" + ", ".join(f"{path!r}: {_describe(rule)}" for path, rule in named) + "})"

    def _rows(self, params: Params) -> list[Row]:
        """Pair every leaf with its rule, in flattening order; nested priors pair the leaves of their subtree."""
        named = named_leaves(params)
        if self.patterns is None:
            above = broadcast_prefix(self.rules, params, _is_rule)
        else:
            above = [("", rule) for rule in match_rules(self.patterns, paths(params))]
        nested = {
            f"{root}/{row.path}".strip("/"): row._replace(root=f"{root}/{row.root}".strip("/"))
            for root, rule in dict(above).items()
            if isinstance(rule, Prior)
            for row in rule._rows(at_path(params, root))
        }
        return [
            nested[path]._replace(path=path) if path in nested else Row(path, rule, leaf, "")
            for (path, leaf), (_, rule) in zip(named, above, strict=True)
        ]


def _penalty_of(rule: Any) -> tuple[float, float]:
    """(l1, l2) of the penalty l1 |b| + l2 b^2 / 2 that a rule is, NaN where it is none."""
    if isinstance(rule, Flat):
        return 0.0, 0.0
    centred = not np.any(np.asarray(getattr(rule, "loc", 0.0)))
    single = isinstance(rule, Distribution) and int(np.prod(rule.shape())) == 1
    if isinstance(rule, Normal) and centred and single:
        return 0.0, float(np.asarray(rule.scale).item() ** -2)
    if isinstance(rule, Laplace) and centred and single:
        return float(1.0 / np.asarray(rule.scale).item()), 0.0
    if isinstance(rule, ElasticNet) and single:
        return float(np.asarray(rule.l1).item()), float(np.asarray(rule.l2).item())
    return float("nan"), float("nan")


def _is_rule(node: Any) -> bool:
    return isinstance(node, Distribution | Flat | Prior) or callable(node)


def _as_rule(node: Any) -> Any:
    if isinstance(node, Prior):
        return node.rules if node.patterns is None and _is_rule(node.rules) else node
    if isinstance(node, Distribution):
        check_distribution(node, "prior")
        return node
    if isinstance(node, Flat) or (callable(node) and not isinstance(node, type)):
        return node
    raise TypeError(
        f"Expected a numpyro distribution, jm.flat, or a function of the parameters as a prior rule; got {node!r}."
    )


def _describe(rule: Any) -> str:
    if isinstance(rule, Prior):
        return repr(rule)
    if not isinstance(rule, Distribution):
        return "flat" if isinstance(rule, Flat) else f"function {getattr(rule, '__name__', 'of the parameters')}"
    values = {name: vars(rule).get(name) for name in rule.arg_constraints}
    inside = ", ".join(
        f"{name}={float(np.asarray(v).item()):.4g}" if np.size(v) == 1 else f"{name}={np.shape(v)}"
        for name, v in values.items()
        if v is not None
    )
    return f"{type(rule).__name__}({inside})"
