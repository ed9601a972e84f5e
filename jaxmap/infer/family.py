"""Families of models, build(strength): one member stands for all, and programs that hold the build do not keep it."""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, cast

import jax

from jaxmap.model import Model

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)

Build = Callable[[Any], Model]

TEMPLATES: weakref.WeakKeyDictionary[Any, Model] = weakref.WeakKeyDictionary()
"""One model per `build` that is still in use: it holds the compiled programs of its family."""


def weak(build: Build) -> Callable[[], Build]:
    """A reference that does not keep the build, and with it the user's data, alive."""
    try:
        return cast(Any, weakref.ref(build))
    except TypeError:
        return lambda: build


def template(build: Build, strength: Any) -> Model:
    """The model that stands for all strengths: shapes, starts, support.

    Raises:
        TypeError: `build` returns no model.
    """
    with contextlib.suppress(TypeError):
        if build in TEMPLATES:
            return TEMPLATES[build]
    model = build(strength)
    if not isinstance(model, Model):
        raise TypeError(f"Expected build(strength) to return a jm.Model; got {type(model).__name__}.")
    if model.train is not None:
        raise ValueError("Expected a network in evaluation mode in a family of models; got one in training mode.")
    with contextlib.suppress(TypeError):  # a callable that cannot be referred to weakly is compiled anew
        TEMPLATES[build] = model
    return model


def traced(build: Build, strength: Any) -> Model:
    """The model of a traced strength.

    Raises:
        TypeError: a `build` that jax cannot trace.
    """
    try:
        with jax.ensure_compile_time_eval():  # what does not depend on the strength stays concrete: starts, checks
            return build(strength)
    except UNTRACEABLE as error:
        raise TypeError(
            "Expected a build(strength) that jax can trace; got one that needs the number itself. Use jnp instead "
            "of numpy, float() or `if` on the strength."
        ) from error
