"""Predictions of the linearised network: its outputs are Gaussian, f(x) + J (z - mean), where the parameters are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxmap.assess.emission import Emission
from jaxmap.assess.shares import of_examples
from jaxmap.curvature import LayeredNetwork, View, output_covariance, spread_of
from jaxmap.infer import GaussianPosterior
from jaxmap.infer.ladder import LAYERS_UP_TO
from jaxmap.infer.posteriors import equal_weights
from jaxmap.model import Density, Model, class_probabilities, classes, gaussian, gaussian_parts
from jaxmap.trees import float_dtype, shaper, signature
from jaxmap.types import Key

HOW = ("linearised", "outputs", "probit", "bridge", "weights")
"""How a Gaussian over the parameters of a network predicts."""

CLOSED = Emission(lambda member: gaussian(*member))
"""member (loc, scale) -> Gaussian."""

OVER_CLASSES = {binary: Emission(lambda member, b=binary: classes(member, binary=b)) for binary in (False, True)}
"""member (n, classes) -> distribution over classes."""


class Parts(NamedTuple):
    """Members of a predictive, and what makes a distribution of each; `spread` as in `Predictive`."""

    emission: Emission
    members: Any
    log_weights: np.ndarray
    spread: np.ndarray | None = None


class OutputGaussian(NamedTuple):
    """What the linearised network says about u = (outputs, learned likelihood parameters) at each input.

    Attributes:
        mean: (n, k).
        covariance: (n, k, k).
        decode: u of shape (n, k) -> (outputs (n, ...), learned likelihood parameters); these are taken from row 0.
        width: how many of the k are outputs.
    """

    mean: Float[Array, "n k"]
    covariance: Float[Array, "n k k"]
    decode: Callable[[Any], tuple[Any, Any]]
    width: int


def linearised(
    key: Key, model: Model, posterior: GaussianPosterior, x: Any, draws: int, how: str, mesh: Mesh | None = None
) -> Parts:
    """Predict by the network's tangent at the mean.

    Args:
        key: for draws of the outputs.
        model: with network outputs.
        posterior: Gaussian over its parameters.
        x: inputs.
        draws: how many, where there is no closed form.
        how: one of `HOW`, not "weights".
        mesh: devices that share the inputs; None: one.

    Raises:
        ValueError: "probit" or "bridge" where y is not a class.
    """
    found = output_gaussian(model, posterior, x, mesh)
    if how in ("probit", "bridge"):
        return _closed_classes(model, found, how)
    closed = None if how == "outputs" else _closed_gaussian(model, found)
    return _sampled(key, model, found, draws) if closed is None else closed


def output_gaussian(model: Model, posterior: GaussianPosterior, x: Any, mesh: Mesh | None = None) -> OutputGaussian:
    """Mean and covariance of the linearised outputs, in bounded memory."""
    z, moving = jax.tree.map(jnp.asarray, posterior.mean), posterior.moving
    name = ("tangent", moving, posterior.dtype, signature(x))
    tangent = model.programs.made(name, lambda: _tangent(model, View(Density(model), moving), z, x))
    spread = spread_of(posterior.precision, tangent.network, posterior.dtype)
    if mesh is None:
        mean, covariance = tangent.program(z, x, spread)
    else:
        shared = lambda x, z, spread: tangent.program(z, x, spread)  # noqa: E731
        mean, covariance = map(jnp.asarray, of_examples(model, name, shared, mesh, x, z, spread))
    return OutputGaussian(mean, covariance, tangent.decode, tangent.width)


class Tangent(NamedTuple):
    """What is known of a linearised network before the numbers: one per model, moving leaves and shapes of inputs.

    Attributes:
        network: its layers.
        program: (z, x, spread) -> mean and covariance of u.
        decode, width: as in `OutputGaussian`.
    """

    network: LayeredNetwork
    program: Callable[[Any, Any, Any], Any]
    decode: Callable[[Any], tuple[Any, Any]]
    width: int


def _tangent(model: Model, view: View, z: Any, x: Any) -> Tangent:
    start = model.start_unconstrained(float_dtype(z))  # so that no z is held on to
    shared_of, values_of = _shared(model, start, x)

    def outputs(z: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
        return lambda m, x: (view.outputs(z)(m, x)[0], shared_of(view.into(z, m), x))

    def program(z: Any, x: Any, spread: Any) -> Any:
        return output_covariance(outputs(z), view.of(z), x, spread, network._replace(outputs=outputs(z)))

    made = jax.eval_shape(lambda z, x: view.outputs(z)(view.of(z), x)[0], z, x)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in view.of(z)]
    network = LayeredNetwork.of(outputs(start), shapes, x, limit=LAYERS_UP_TO)._replace(outputs=None)  # type: ignore[arg-type]
    width = made.size // made.shape[0]

    def decode(u: Any) -> tuple[Any, Any]:
        return u[:, :width].reshape(len(u), *made.shape[1:]), values_of(u[0, width:])

    return Tangent(network, jax.jit(program), decode, width)


def _shared(model: Model, z: Any, x: Any) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """The coordinates behind the learned likelihood parameters, z -> numbers, and the way back to the parameters."""
    first = jax.tree.map(lambda leaf: leaf[:1], x)

    def values(z: Any, x: Any) -> Any:
        return model.outputs(model.space.constrain(z), x)[1]  # type: ignore[misc]

    shapes = jax.eval_shape(values, z, first)
    if isinstance(z, dict) and jax.tree.structure(z.get("likelihood")) == jax.tree.structure(shapes):
        rebuilt = shaper(z["likelihood"])
        return lambda z, x: z["likelihood"], lambda v: values(z | {"likelihood": rebuilt(v)}, first)
    return values, shaper(shapes)


def _closed_gaussian(model: Model, found: OutputGaussian) -> Parts | None:
    """One Gaussian per input, N(f, s^2 + J C J'), where y is Gaussian with a scale that does not depend on u."""
    name = ("closed Gaussian", found.mean.shape[1])
    program = model.programs.made(name, lambda: _gaussian_program(model, found))
    if program is None:
        return None
    moves, loc, scale, variance = program(found.mean, found.covariance)
    if moves:
        return None
    return Parts(CLOSED, (loc, scale), equal_weights(1), np.asarray(variance, np.float64))


def _gaussian_program(model: Model, found: OutputGaussian) -> Any:
    """Whether the scale moves with u, and the Gaussian with f integrated out; None where y is not Gaussian."""

    def parts(u: Any) -> Any:
        return gaussian_parts(model.emission(*found.decode(u[None])))  # type: ignore[misc]

    if jax.eval_shape(parts, found.mean[0]) is None:
        return None

    def moves(means: Any, covariances: Any) -> Any:
        slope = jax.jacfwd(lambda u: parts(u)[1][0])(means[0])
        scales = jnp.sqrt(jnp.maximum(jnp.diagonal(covariances[0]), 0.0))
        return jnp.any(jnp.einsum("...k,k->...k", slope, scales) != 0)

    def one(u: Any, covariance: Any) -> Any:
        loc, scale = parts(u)
        jacobian = jax.jacfwd(lambda u: parts(u)[0][0])(u).reshape(-1, u.size)
        variance = jnp.einsum("ok,kl,ol->o", jacobian, covariance, jacobian).reshape(loc[0].shape)
        return loc[0], jnp.sqrt(scale[0] ** 2 + variance), variance

    def convolve(means: Any, covariances: Any) -> Any:
        return moves(means, covariances), *(leaf[None] for leaf in jax.vmap(one)(means, covariances))

    return jax.jit(convolve)


def _sampled(key: Key, model: Model, found: OutputGaussian, draws: int) -> Parts:
    """Draws of u: first the learned likelihood parameters, which all inputs share, then the outputs given them."""
    width = found.width

    def sample(key: Key, mean: Any, covariance: Any) -> Any:
        of_shared, of_outputs = jax.random.split(key)
        noise = jax.random.normal(of_outputs, (draws, len(mean), width), mean.dtype)
        inner, cross, outer = (
            covariance[:, :width, :width],
            covariance[:, :width, width:],
            covariance[0, width:, width:],
        )
        shared = jax.random.normal(of_shared, (draws, mean.shape[1] - width), mean.dtype) @ _root(outer).T
        if mean.shape[1] > width:
            weights = jnp.einsum("nks,st->nkt", cross, jnp.linalg.pinv(outer, hermitian=True))
            inner = inner - jnp.einsum("nks,nls->nkl", weights, cross)
            center = mean[None, :, :width] + jnp.einsum("nks,ds->dnk", weights, shared)
        else:
            center = mean[None, :, :width]
        return center + jnp.einsum("nkl,dnl->dnk", _root(inner), noise), mean[0, width:][None] + shared

    program = model.programs.jitted(("draws of outputs", draws, width), sample)
    made, shared = program(key, found.mean, found.covariance)

    def decoded(made: Any, shared: Any) -> Any:
        rows = jnp.concatenate([made, jnp.broadcast_to(shared[None], (len(made), shared.size))], axis=1)
        return found.decode(rows)

    return Parts(emitting(model), jax.lax.map(lambda pair: decoded(*pair), (made, shared)), equal_weights(draws))


def _root(covariance: Any) -> Any:
    """R with R R' = covariance, which may be singular."""
    if covariance.shape[-1] <= 1:
        return jnp.sqrt(jnp.maximum(covariance, 0.0))
    values, vectors = jnp.linalg.eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]


def _closed_classes(model: Model, found: OutputGaussian, how: str) -> Parts:
    """Class probabilities in closed form: the probit approximation, or the mean of the Laplace bridge.

    Probit: softmax(f / sqrt(1 + pi / 8 diag S)) (MacKay, 1992; Gibbs, 1997). Bridge: f and S are conditioned on a sum
    of zero, then alpha_k = (1 - 2 / K + exp(f_k) / K^2 * sum_l exp(-f_l)) / S_kk and p = alpha / sum alpha (Hobbhahn,
    Kristiadi and Hennig, 2022); for two classes that mean is the point's own probability. What is epistemic is the
    variance of the probabilities: by the delta method, or the Dirichlet's.
    """
    kind = model.programs.made("no classes", lambda: _name_without_classes(model, found))
    if kind:
        raise ValueError(f"Expected classes for how={how!r}; got {kind}. Use how='linearised'.")
    width = found.width

    def one(mean: Any, covariance: Any) -> Any:
        mean, covariance = mean[:width], covariance[:width, :width]
        if width == 1:  # the difference of the two logits has the variance that the probit formula asks for
            signs = jnp.array([-0.5, 0.5], mean.dtype)
            mean, covariance = mean * signs, covariance * jnp.outer(signs, signs)
        return (_probit if how == "probit" else _bridge)(mean, covariance)

    each = lambda means, covariances: jax.tree.map(lambda leaf: leaf[None], jax.vmap(one)(means, covariances))  # noqa: E731
    probs, spread = model.programs.jitted((how, width), each)(found.mean, found.covariance)
    return Parts(OVER_CLASSES[width == 1], probs, equal_weights(1), np.asarray(spread, np.float64))


def _name_without_classes(model: Model, found: OutputGaussian) -> str:
    """The name of the distribution of y where it is not one over classes, else empty."""
    first = model.emission(*found.decode(found.mean[:1]))  # type: ignore[misc]
    return type(first).__name__ if class_probabilities(first) is None else ""


def _probit(mean: Any, covariance: Any) -> Any:
    variances = jnp.diagonal(covariance)
    if len(mean) == 2:  # exact in the one difference that counts
        between = variances[0] + variances[1] - 2 * covariance[0, 1]
        high = jax.nn.sigmoid((mean[1] - mean[0]) / jnp.sqrt(1 + jnp.pi / 8 * between))
        probs = jnp.stack([1 - high, high])
    else:
        probs = jax.nn.softmax(mean / jnp.sqrt(1 + jnp.pi / 8 * variances))
    slope = jax.jacfwd(jax.nn.softmax)(mean)
    return probs, jnp.minimum(jnp.einsum("ck,kl,cl->c", slope, covariance, slope), probs * (1 - probs))


def _bridge(mean: Any, covariance: Any) -> Any:
    count, rows = len(mean), jnp.sum(covariance, axis=1)
    total = jnp.maximum(jnp.sum(rows), jnp.finfo(mean.dtype).tiny)
    mean = mean - rows * jnp.sum(mean) / total
    variances = jnp.diagonal(covariance - jnp.outer(rows, rows) / total)
    variances = jnp.maximum(variances, jnp.finfo(mean.dtype).eps)
    steep = mean + jax.nn.logsumexp(-mean) - 2 * jnp.log(count)
    log_alpha = jnp.logaddexp(jnp.log(1 - 2 / count), steep) - jnp.log(variances)
    probs = jax.nn.softmax(log_alpha)
    return probs, probs * (1 - probs) * jnp.exp(-jnp.logaddexp(jax.nn.logsumexp(log_alpha), 0.0))


def emitting(model: Model) -> Emission:
    """Member (outputs, learned values) -> distribution; one per model."""
    return model.programs.made("emission", lambda: Emission(lambda member: model.emission(*member)))  # type: ignore[misc]
