"""What is worked out once for a model and kept with it: above all, compiled programs."""

from collections.abc import Callable
from typing import Any

import jax

from jaxmap.data import everywhere


class Programs(dict[Any, Any]):
    """Compiled programs and other things that depend on a model alone, by name.

    A name says all that its value depends on beside the model.
    """

    def made(self, name: Any, build: Callable[[], Any]) -> Any:
        """The value of build(), which is called once per name."""
        if name not in self:
            self[name] = build()
        return self[name]

    def jitted(self, name: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """jax.jit(function), made once per name: the first function that came under it.

        Under a mesh its results are whole on every device.
        """
        return self.made(name, lambda: jax.jit(everywhere(function)))
