"""A decoder-only Transformer over characters: each position is asked for the character that follows it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SPREAD = 0.02
"""Standard deviation of a new weight (Radford et al., 2019)."""


def dense(inside: int, outside: int, rngs: nnx.Rngs, spread: float = SPREAD) -> nnx.Linear:
    """A linear map without bias, as all in here are."""
    return nnx.Linear(inside, outside, use_bias=False, kernel_init=nnx.initializers.normal(spread), rngs=rngs)


class Attention(nnx.Module):
    """Every position looks back at itself and those before it (Vaswani et al., 2017).

    head(x)_t = sum over s <= t of softmax_s(q_t' k_s / sqrt(size of a head)) v_s
    """

    def __init__(self, width: int, heads: int, spread: float, rngs: nnx.Rngs):
        if width % heads:
            raise ValueError(f"Expected a width that {heads} heads can share; got {width}.")
        self.heads = heads
        self.ask = dense(width, 3 * width, rngs)  # queries, keys and values of all heads in one product
        self.answer = dense(width, width, rngs, spread)

    def __call__(self, x: Any) -> Any:
        n, length, width = x.shape
        size = width // self.heads
        query, key, value = jnp.moveaxis(self.ask(x).reshape(n, length, 3, self.heads, size), (2, 3), (0, 2))
        scores = query @ jnp.swapaxes(key, 2, 3) * size**-0.5
        past = jnp.tri(length, dtype=bool)[None, None]
        weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1)
        return self.answer(jnp.swapaxes(weights @ value, 1, 2).reshape(n, length, width))


class Block(nnx.Module):
    """Attention, then two dense layers at each position; both are added to what came in, which they see normalised."""

    def __init__(self, width: int, heads: int, spread: float, rngs: nnx.Rngs):
        self.before_attention = nnx.LayerNorm(width, use_bias=False, rngs=rngs)
        self.attention = Attention(width, heads, spread, rngs)
        self.before_dense = nnx.LayerNorm(width, use_bias=False, rngs=rngs)
        self.up = dense(width, 4 * width, rngs)
        self.down = dense(4 * width, width, rngs, spread)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.before_attention(x))
        return x + self.down(jax.nn.gelu(self.up(self.before_dense(x))))


class Transformer(nnx.Module):
    """Characters (n, length) to the logits of the next ones (n, length, vocabulary).

    Args:
        vocabulary: how many characters there are.
        context: the longest length.
        layers, heads, width: of the blocks; what a block adds begins smaller by sqrt(2 layers).
        rngs: for new weights.
    """

    def __init__(self, vocabulary: int, context: int, layers: int, heads: int, width: int, rngs: nnx.Rngs):
        self.vocabulary = vocabulary
        begin = nnx.initializers.normal(SPREAD)
        self.characters = nnx.Param(begin(rngs.params(), (vocabulary, width)))
        self.positions = nnx.Param(begin(rngs.params(), (context, width)))
        spread = SPREAD / (2 * layers) ** 0.5
        self.blocks = nnx.List([Block(width, heads, spread, rngs) for _ in range(layers)])
        self.last_norm = nnx.LayerNorm(width, use_bias=False, rngs=rngs)

    def __call__(self, text: Any) -> Any:
        # A product, not a look-up: the gradient of a look-up adds rows one by one on a CPU.
        table = self.characters[...]
        x = jax.nn.one_hot(text, self.vocabulary, dtype=table.dtype) @ table
        x = x + self.positions[...][None, : text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x) @ table.T  # one table for what comes in and what goes out (Press and Wolf, 2017)


def generate(key: Any, apply: Any, params: Any, prompt: np.ndarray, length: int, context: int) -> np.ndarray:
    """Draw characters one after the other from the model's own probabilities.

    Args:
        key: of jax.random.
        apply: (params, text (n, context)) -> logits.
        params: of the network.
        prompt: the characters to begin with, (k,).
        length: how many to draw.
        context: how far back the network looks.

    Returns:
        text: prompt and draws, (k + length,).
    """

    def draw(carry: Any, i: Any) -> Any:
        window, seen = carry
        logits = apply(params, window[None])[0, seen - 1]
        following = jax.random.categorical(jax.random.fold_in(key, i), logits).astype(window.dtype)
        shifted = jnp.roll(window, -1).at[-1].set(following)
        window = jnp.where(seen < context, window.at[jnp.minimum(seen, context - 1)].set(following), shifted)
        return (window, jnp.minimum(seen + 1, context)), following

    @jax.jit
    def run(params: Any, begun: Any) -> Any:
        return jax.lax.scan(draw, begun, jnp.arange(length))[1]

    recent = np.asarray(prompt)[-context:]
    window = np.zeros(context, np.int32)
    window[: len(recent)] = recent
    drawn = run(params, (jnp.asarray(window), jnp.asarray(len(recent))))
    return np.concatenate([np.asarray(prompt), np.asarray(drawn)])
