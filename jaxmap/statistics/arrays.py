"""Entry checks of this room: whatever array comes in, float64 numpy of a known shape goes on."""

import jax
import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray | jax.Array

# Float32 softmax outputs sum to one within a few 1e-7; bfloat16 ones within a few 1e-3.
_PROBABILITY_SLACK = 1e-2


def require_real(name: str, values: Array) -> np.ndarray:
    """Refuse what is not an array of real numbers, and leave its dtype alone.

    Args:
        name: what the caller calls it, for the message.
        values: any array.

    Returns:
        values: the same numbers as a numpy array, not copied where that is possible.

    Raises:
        TypeError: complex numbers, strings or objects.
    """
    array = np.asarray(values)
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise TypeError(f"Expected {name} with real numbers; got dtype {array.dtype}. Convert it to floats.")
    return array


def require_float64(name: str, values: Array, *shape: int | str) -> Float[np.ndarray, "..."]:
    """Convert to float64 and check the shape.

    Args:
        name: what the caller calls it, for the message.
        values: any array of real numbers.
        shape: one entry per axis: a length that is required, or a name for an axis of any length but zero.

    Returns:
        values: the numbers as float64.

    Raises:
        TypeError: not real numbers.
        ValueError: another shape, or an empty axis.
    """
    array = require_real(name, values)
    if not _matches(array.shape, shape):
        raise ValueError(_shape_message(name, array.shape, shape))
    return array.astype(np.float64)


def require_probabilities(name: str, probs: Array, *shape: int | str) -> Float[np.ndarray, "n classes"]:
    """Convert class probabilities to float64; NaN rows pass and stay NaN.

    Args:
        name: what the caller calls it, for the message.
        probs: class probabilities, rows that sum to one.
        shape: as in `require_float64`.

    Returns:
        probs: the probabilities as float64, not renormalised.

    Raises:
        TypeError: not real numbers.
        ValueError: another shape, an entry outside [0, 1], or a row that does not sum to one.
    """
    array = require_float64(name, probs, *shape)
    outside = np.maximum(-array, array - 1).max(axis=1)
    wrong = (outside > _PROBABILITY_SLACK) | (np.abs(array.sum(axis=1) - 1) > _PROBABILITY_SLACK)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"Expected {name} with rows of probabilities that sum to one; got row {row} with entries from "
            f"{array[row].min():.3g} to {array[row].max():.3g} and sum {array[row].sum():.3g}. "
            "Apply a softmax if these are logits."
        )
    return array


def require_labels(name: str, y: Array, n: int, classes: int) -> Int[np.ndarray, " n"]:
    """Check class labels.

    Args:
        name: what the caller calls it, for the message.
        y: integer class labels.
        n: the number of examples.
        classes: the number of classes.

    Returns:
        y: the labels as int64.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or a label outside [0, classes).
    """
    array = np.asarray(y)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"Expected {name} with integer labels; got dtype {array.dtype}. Use {name}.astype(int).")
    if array.shape != (n,):
        raise ValueError(_shape_message(name, array.shape, (n,)))
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"Expected {name} with labels from 0 to {classes - 1}; got {array.min()} to {array.max()}. "
            "Number the classes from zero."
        )
    return array.astype(np.int64)


def require_weights(name: str, weights: Array, size: int) -> Float[np.ndarray, " S"]:
    """Check mixture weights and scale them to sum to one.

    Args:
        name: what the caller calls it, for the message.
        weights: non-negative, up to a common factor.
        size: how many there must be.

    Returns:
        weights: float64, sum one (NaN where an entry was NaN).

    Raises:
        TypeError: not real numbers.
        ValueError: another shape, a negative weight, or none that is positive.
    """
    array = require_float64(name, weights, size)
    if (array < 0).any() or array.sum() == 0:
        raise ValueError(
            f"Expected {name} that are not negative and not all zero; got {array.min()} to {array.max()}. "
            "Take exp of log weights."
        )
    with np.errstate(invalid="ignore"):
        return array / array.sum()


def _matches(got: tuple[int, ...], want: tuple[int | str, ...]) -> bool:
    if len(got) != len(want):
        return False
    return all(size > 0 and (isinstance(need, str) or size == need) for size, need in zip(got, want, strict=True))


def _shape_message(name: str, got: tuple[int, ...], want: tuple[int | str, ...]) -> str:
    if _matches(tuple(size for size in got if size != 1), want):
        remedy = f"Squeeze {name}."
    elif _matches(got[::-1], want):
        remedy = f"Transpose {name}."
    elif 0 in got:
        remedy = "Pass at least one example."
    else:
        remedy = "Check which axis is which."
    shape = ", ".join(map(str, want)) + ("," if len(want) == 1 else "")
    return f"Expected {name} with shape ({shape}); got {got}. {remedy}"
