"""Sites: what one run of a numpyro model says, statement by statement."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import Unit, constraints

from jaxmap.types import Params

Sites = Mapping[str, Any]
"""The trace of one run: statement name -> what it holds, in the order of the program."""

SEED = 0
"""Of every run, so that random values that are not sites are the same in all of them."""


def run_at(model: Callable[..., Any], arguments: tuple[Any, Any], values: Mapping[str, Any]) -> Sites:
    """Run a model with its latent sites set to `values`."""
    args, kwargs = arguments
    return handlers.trace(handlers.substitute(handlers.seed(model, SEED), data=dict(values))).get_trace(*args, **kwargs)


def run_from(model: Callable[..., Any], arguments: tuple[Any, Any], begin: Callable[[Any], Any], seed: int) -> Sites:
    """Run a model with its latent sites set by a strategy of `numpyro.infer.initialization`."""
    args, kwargs = arguments
    seeded = handlers.substitute(handlers.seed(model, seed), substitute_fn=begin)
    return handlers.trace(seeded).get_trace(*args, **kwargs)


def latent(sites: Sites) -> dict[str, Any]:
    """The sites that are parameters: those that are not observed, and those of `numpyro.param`."""
    return {name: site for name, site in sites.items() if _is_draw(site) or site["type"] == "param"}


def observed(sites: Sites) -> dict[str, Any]:
    """The sites that hold data."""
    return {name: site for name, site in sites.items() if _is_given(site) and not _is_factor(site)}


def factors(sites: Sites) -> dict[str, Any]:
    """The sites of `numpyro.factor`."""
    return {name: site for name, site in sites.items() if _is_given(site) and _is_factor(site)}


def deterministic(sites: Sites) -> dict[str, Any]:
    """The sites of `numpyro.deterministic`, which follow from the others."""
    return {name: site for name, site in sites.items() if site["type"] == "deterministic"}


def supports(sites: Sites) -> dict[str, Any]:
    """The constraint of every parameter.

    Raises:
        ValueError: a discrete one.
    """
    found = {}
    for name, site in latent(sites).items():
        support = site["kwargs"].get("constraint", constraints.real) if site["type"] == "param" else site["fn"].support
        if support.is_discrete:
            raise ValueError(
                f"Expected continuous latent sites in the numpyro model; got the discrete {name!r} "
                f"({type(site['fn']).__name__}). Sum it out, as dist.MixtureSameFamily does, or give it as data."
            )
        found[name] = support
    return found


def chosen_rows(sites: Sites) -> dict[str, Any]:
    """The rows that subsampling plates chose, by plate."""
    plates = {name: site for name, site in sites.items() if site["type"] == "plate"}
    return {name: site["value"] for name, site in plates.items() if site["args"][1] not in (None, site["args"][0])}


def check_static(one: Sites, other: Sites) -> None:
    """Refuse a model whose parameters, or their supports, change with the values of the parameters.

    Raises:
        ValueError: names the site.
    """
    check_names(latent(one), latent(other))
    ours, theirs = supports(one), supports(other)
    for name, support in ours.items():
        if _parts(support) != _parts(theirs[name]):
            raise ValueError(
                f"Expected latent sites whose support does not depend on other latent sites; got {name!r}. Draw it "
                "on a fixed support and transform it: u ~ Uniform(0, 1), numpyro.deterministic(..., low + u * width)."
            )
        if np.shape(one[name]["value"]) != np.shape(other[name]["value"]):
            raise ValueError(
                f"Expected latent sites of fixed shapes; got {name!r}, whose shape changes with other sites."
            )


def check_names(expected: Any, got: Any) -> None:
    """Refuse a run with other latent sites than the first.

    Raises:
        ValueError: names those that differ.
    """
    different = sorted(set(expected) ^ set(got))
    if different:
        raise ValueError(
            "Expected a numpyro model with the same latent sites in every run; got a change in "
            f"{', '.join(different)}. Let no random value and no size of a batch decide which sites there are."
        )


def log_prob(site: Any) -> Array:
    """The site's log-probabilities, scale and mask applied, of its batch shape."""
    value, hints = site["value"], site["intermediates"]
    found = site["fn"].log_prob(value, hints) if hints else site["fn"].log_prob(value)
    return found if site["scale"] is None else site["scale"] * found


def total(sites: Sequence[Any]) -> Float[Array, ""]:
    """The sum of the log-probabilities of some sites; a `numpyro.param` has none."""
    values = [jnp.sum(log_prob(site)) for site in sites if site["type"] == "sample"]
    return sum(values, start=jnp.asarray(0.0))


def per_example(sites: Sequence[Any]) -> Float[Array, " n"]:
    """One log-probability per example: the sites' values on their common leading axis, other axes summed.

    Sites without a common leading axis are laid end to end; a site without a batch shape is one example.
    """
    values = [log_prob(site) for site in sites]
    rows = [jnp.sum(jnp.reshape(v, (*v.shape[:1], -1)), axis=-1) if v.ndim else v[None] for v in values]
    if all(v.ndim for v in values) and len({len(v) for v in values}) == 1:
        return sum(rows[1:], start=rows[0])
    return jnp.concatenate(rows)


def nested(values: Mapping[str, Any]) -> Params:
    """A params tree of site values: `scope/name` is `{"scope": {"name": ...}}`.

    Raises:
        ValueError: a site that is named like a scope.
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *scopes, last = name.split("/")
        node = tree
        for scope in scopes:
            node = node.setdefault(scope, {})
            if not isinstance(node, dict):
                raise ValueError(f"Expected latent sites with names apart from scopes; got {name!r}. Rename one.")
        if last in node:
            raise ValueError(f"Expected latent sites with names apart from scopes; got {name!r}. Rename one.")
        node[last] = value
    return tree


def flattened(params: Params, names: Sequence[str]) -> dict[str, Any]:
    """The inverse of `nested`."""
    found = {}
    for name in names:
        node = params
        for part in name.split("/"):
            node = node[part]
        found[name] = node
    return found


def _is_draw(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _is_given(site: Any) -> bool:
    return site["type"] == "sample" and site["is_observed"]


def _is_factor(site: Any) -> bool:
    fn = site["fn"]
    while (inner := getattr(fn, "base_dist", None)) is not None:  # a plate expands it, a mask wraps it
        fn = inner
    return isinstance(fn, Unit)


def _parts(support: Any) -> tuple[Any, ...]:
    leaves, treedef = jax.tree.flatten(support)
    return (treedef, *((np.shape(leaf), np.asarray(leaf).tobytes()) for leaf in leaves))
