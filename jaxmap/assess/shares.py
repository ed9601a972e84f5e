"""Predictions on a mesh: draws and members are shared out over the axis `member`, examples over `data`."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmap.data import EXAMPLES, MEMBER, alike_everywhere, fingerprint, num_examples, on_host, put, within
from jaxmap.model import Model
from jaxmap.types import Key


def of_draws(model: Model, name: str, function: Callable[[Any, Any], Any], mesh: Mesh, members: Any, x: Any) -> Any:
    """function(members, x) -> arrays (draws, examples, ...), on all devices of a mesh, whole on the host.

    Each device computes for its share of both, in the same bounded memory as one alone; nothing is sent. Where a number
    does not divide, the last draw or example is computed once more.
    """
    specs = PartitionSpec(MEMBER), PartitionSpec(EXAMPLES)
    program = model.programs.made(
        ("in shares", name, mesh),
        lambda: jax.jit(
            jax.shard_map(
                function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(MEMBER, EXAMPLES), check_vma=False
            )
        ),
    )
    draws, examples = num_examples(members), num_examples(x)
    with within(mesh):
        found = on_host(program(_placed(members, mesh, MEMBER), _placed(x, mesh, EXAMPLES)))
    return jax.tree.map(lambda leaf: leaf[:draws, :examples], found)


def of_examples(model: Model, name: Any, function: Callable[..., Any], mesh: Mesh, x: Any, *given: Any) -> Any:
    """function(x, *given) -> arrays (examples, ...), each device of a mesh with its share of the examples."""
    specs = (PartitionSpec(EXAMPLES), *(PartitionSpec() for _ in given))
    program = model.programs.made(
        ("in shares", name, mesh),
        lambda: jax.jit(
            jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(EXAMPLES), check_vma=False)
        ),
    )
    whole = NamedSharding(mesh, PartitionSpec())
    with within(mesh):
        others = [jax.tree.map(lambda leaf: put(leaf, whole), tree) for tree in given]
        found = on_host(program(_placed(x, mesh, EXAMPLES), *others))
    return jax.tree.map(lambda leaf: leaf[: num_examples(x)], found)


def check_alike(mesh: Mesh | None, key: Key, x: Any) -> None:
    """Refuse inputs of its own in a process.

    Raises:
        ValueError: another key, or other inputs, than in process 0.
    """
    if mesh is None or not mesh.is_multi_process:
        return
    with within(mesh):
        if not alike_everywhere(f"{np.asarray(jax.random.key_data(key)).tolist()} {fingerprint(x)}"):
            raise ValueError(
                f"Expected the same key and the same inputs in all {jax.process_count()} processes, of which each gets "
                "the whole predictive; got others in some. Give all of them the same."
            )


def _placed(tree: Any, mesh: Mesh, axis: str) -> Any:
    """Arrays on the devices of one axis, filled up with copies of the last row."""
    count, devices = num_examples(tree), mesh.shape[axis]
    rows = np.minimum(np.arange(-(-count // devices) * devices), count - 1)
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    return jax.tree.map(lambda leaf: put(np.asarray(leaf)[rows], sharding), tree)
