"""Constrained and unconstrained coordinates of one parameter tree."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import IdentityTransform, Transform

from jaxmap.trees import broadcast_prefix, has_tracers, named_leaves, paths
from jaxmap.types import Params


def is_constraint(node: Any) -> bool:
    """True for the leaves of a support tree."""
    return isinstance(node, constraints.Constraint)


@dataclass(frozen=True, eq=False)
class Space:
    """The map between the user's parameters and unconstrained coordinates z, leaf by leaf.

    Attributes:
        supports: one constraint per leaf, in flattening order.
        transforms: the bijection z -> params of each leaf (`biject_to`).
        treedef: the structure of the parameters, which is also that of z.
    """

    supports: tuple[constraints.Constraint, ...]
    transforms: tuple[Transform, ...]
    treedef: Any

    @classmethod
    def of(cls, support: Any, params: Params) -> "Space":
        """Build the space of parameters like `params` from a prefix tree of constraints.

        Raises:
            ValueError: the prefix does not fit, or a support is discrete.
        """
        if not jax.tree.leaves(params):
            raise ValueError("Expected at least one parameter in init; got none.")
        for path, node in named_leaves(support, is_leaf=is_constraint):
            if not is_constraint(node):
                raise ValueError(f"Expected a numpyro constraint as the support of {path or 'all'!r}; got {node!r}.")
        supports = tuple(node for _, node in broadcast_prefix(support, params, is_constraint))
        for path, constraint in zip(paths(params), supports, strict=True):
            if constraint.is_discrete:
                raise ValueError(
                    f"Expected a continuous support for {path!r}; got {constraint}. Sum the discrete parameter out."
                )
        transforms = tuple(biject_to(constraint) for constraint in supports)
        return cls(supports, transforms, jax.tree.structure(params))

    def to_plain(self) -> list[Any]:
        """The supports as plain values, for files; None stands for one that has no name here."""
        return [_to_plain(constraint) for constraint in self.supports]

    @classmethod
    def from_plain(cls, plain: list[Any], params: Params) -> "Space":
        """The inverse of `to_plain`, for parameters of the structure of `params`.

        Raises:
            ValueError: a constraint that only the model knows.
        """
        if None in plain:
            raise ValueError("Expected model=... to load a posterior with a constraint of its own. Give the model.")
        supports = [_from_plain(entry) for entry in plain]
        return cls.of(jax.tree.structure(params).unflatten(supports), params)

    @property
    def is_real(self) -> bool:
        """True where the two coordinates are the same."""
        return all(_is_identity(transform) for transform in self.transforms)

    @property
    def is_elementwise(self) -> bool:
        """True where each parameter depends on one coordinate alone."""
        return all(t.domain.event_dim == 0 and t.codomain.event_dim == 0 for t in self.transforms)

    def constrain(self, z: Any) -> Params:
        """Map unconstrained coordinates to the user's parameters."""
        leaves = self.treedef.flatten_up_to(z)
        return self.treedef.unflatten(t(leaf) for t, leaf in zip(self.transforms, leaves, strict=True))

    def unconstrain(self, params: Params) -> Any:
        """Map parameters inside the support to unconstrained coordinates."""
        leaves = self.treedef.flatten_up_to(params)
        return self.treedef.unflatten(t.inv(leaf) for t, leaf in zip(self.transforms, leaves, strict=True))

    def log_jacobian(self, z: Any) -> Float[Array, ""]:
        """Sum log |d params / d z| over all leaves."""
        return sum(self.log_jacobians(z), start=jnp.asarray(0.0))

    def log_jacobians(self, z: Any) -> list[Float[Array, ""]]:
        """Log |d params / d z| of each leaf, in flattening order."""
        pairs = zip(self.transforms, self.treedef.flatten_up_to(z), strict=True)
        return [
            jnp.asarray(0.0) if _is_identity(t) else jnp.sum(t.log_abs_det_jacobian(leaf, t(leaf))) for t, leaf in pairs
        ]

    def check(self, params: Params, *, name: str = "init") -> None:
        """Refuse parameters that are not finite numbers inside the support.

        Raises:
            TypeError: integer, boolean or complex parameters.
            ValueError: another structure, NaN or infinity, or a value outside the support; names the leaf.
        """
        if has_tracers(params):
            raise TypeError(f"Expected {name} on the host; got traced values (inside jit, grad or vmap).")
        if jax.tree.structure(params) != self.treedef:
            raise ValueError(
                f"Expected {name} to have the parameters of the model; got {', '.join(paths(params))}. "
                "Give the same tree."
            )
        for (path, leaf), constraint in zip(named_leaves(params), self.supports, strict=True):
            where = f"{name}[{path!r}]" if path else name
            array = np.asarray(leaf)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(f"Expected floating parameters; got {where} of dtype {leaf.dtype}. Write 1.0, not 1.")
            if not np.all(np.isfinite(array.astype(np.float64))):
                raise ValueError(f"Expected finite parameters; got NaN or infinity in {where}.")
            with jax.ensure_compile_time_eval():  # also inside a program, where a path builds its models
                inside = bool(jnp.all(constraint(leaf)))
                inside = inside and bool(jnp.all(jnp.isfinite(biject_to(constraint).inv(leaf))))
            if not inside:
                raise ValueError(
                    f"Expected {where} inside its support {describe(constraint)}; got {_short(array)}. "
                    "Start inside the support, not on its edge."
                )


def axis_of(constraint: Any) -> tuple[Transform, bool]:
    """The map from the real line to single entries of a leaf, and whether it is the leaf's own bijection.

    Where the bijection acts entry by entry it is that one. The entries of a simplex are probabilities, those of a
    positive ordered vector positive; entries of other coupled supports are left as they are.
    """
    single: Any = constraint
    while (inner := getattr(single, "base_constraint", None)) is not None:
        single = inner
    transform = biject_to(single)
    if not transform.domain.event_dim and not transform.codomain.event_dim:
        return transform, True
    return biject_to(ENTRIES.get(type(single), constraints.real)), False


def _is_identity(transform: Any) -> bool:
    return isinstance(getattr(transform, "base_transform", transform), IdentityTransform)


NAMED = {
    type(constraint): name
    for name in (
        "real", "positive", "nonnegative", "unit_interval", "simplex", "ordered_vector", "positive_ordered_vector",
        "lower_cholesky", "corr_cholesky", "corr_matrix", "positive_definite", "softplus_positive",
    )
    if (constraint := getattr(constraints, name, None)) is not None
}  # fmt: skip
"""Constraints without arguments."""

BOUNDED = {
    type(constraints.greater_than(0.0)): ("greater_than", ("lower_bound",)),
    type(constraints.less_than(0.0)): ("less_than", ("upper_bound",)),
    type(constraints.interval(0.0, 1.0)): ("interval", ("lower_bound", "upper_bound")),
}
"""Constraints with bounds, and their arguments."""


ENTRIES = {
    type(constraints.simplex): constraints.unit_interval,
    type(constraints.positive_ordered_vector): constraints.positive,
}
"""Where the entries of a coupled support lie, one by one."""


def _to_plain(constraint: Any) -> Any:
    kind = type(constraint)
    if kind in NAMED:
        return [NAMED[kind]]
    if kind in BOUNDED:
        name, arguments = BOUNDED[kind]
        return [name, *(np.asarray(getattr(constraint, argument)).tolist() for argument in arguments)]
    if kind is type(constraints.real_vector):
        inner = _to_plain(constraint.base_constraint)
        return None if inner is None else ["independent", inner, constraint.reinterpreted_batch_ndims]
    return None


def _from_plain(entry: list[Any]) -> constraints.Constraint:
    name, *arguments = entry
    if name == "independent":
        return constraints.independent(_from_plain(arguments[0]), arguments[1])
    made = getattr(constraints, name)
    return made(*(np.asarray(a) if isinstance(a, list) else a for a in arguments)) if arguments else made


def is_real(constraint: Any) -> bool:
    """True where a support is the whole real line, or a vector of such."""
    return _is_identity(biject_to(constraint))


def describe(constraint: constraints.Constraint) -> str:
    """Write a constraint as a reader knows it, `greater_than(lower_bound=0)`."""
    values = {k: v for k, v in vars(constraint).items() if not k.startswith("_")}
    name = type(constraint).__name__.lstrip("_")
    inside = ", ".join(f"{k}={_short(np.asarray(v))}" for k, v in values.items() if not is_constraint(v))
    return f"{name}({inside})" if inside else name


def _short(array: np.ndarray) -> str:
    flat = array.ravel()
    if flat.dtype == object:
        return str(array)
    text = ", ".join(f"{v:g}" for v in flat[:4])
    return text if array.ndim == 0 else f"[{text}{', ...' if flat.size > 4 else ''}]"
