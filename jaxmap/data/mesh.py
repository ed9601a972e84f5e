"""Meshes: which devices hold which examples, and which members."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmap.data.arrays import num_examples
from jaxmap.data.processes import mesh_around, on_host, together
from jaxmap.types import Data

MEMBER, EXAMPLES = "member", "data"
"""The axes of a mesh: independent fits (members, restarts, chains), and the examples of each."""


def mesh(*, member: int = 1, data: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Lay out devices for `jm.fit(..., mesh=)`.

    Members of an ensemble, restarts and chains are shared out over `member`, the examples of each of them over `data`;
    member x data devices work on one fit. Results are those of one device, to rounding.

    Args:
        member: devices that share the members; their number must divide that of members, restarts or chains.
        data: devices that share the examples of a member.
        devices: which; None: the first ones of `jax.devices()`, those of all processes.

    Returns:
        mesh: with axes `member` and `data`.

    Raises:
        ValueError: sizes that are no positive integers, or more than there are devices.
    """
    for name, size in ((MEMBER, member), (EXAMPLES, data)):
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
            raise ValueError(f"Expected {name} to be a positive integer; got {size!r}.")
    every, wanted = list(jax.devices() if devices is None else devices), int(member * data)
    if wanted > len(every):
        raise ValueError(
            f"Expected at most {len(every)} devices, as many as there are; got member={member} x data={data}. Use "
            "fewer, or make virtual ones before the first use of jax: jax.config.update('jax_num_cpu_devices', "
            f"{wanted})."
        )
    return jax.make_mesh((member, data), (MEMBER, EXAMPLES), axis_types=(AxisType.Auto,) * 2, devices=every[:wanted])


def as_mesh(given: Any) -> Mesh | None:
    """A mesh as fits use it: both axes, of type Auto; None for the one that `jax.set_mesh` set, if it has our axes.

    Raises:
        TypeError: no mesh.
        ValueError: other axes, or a process none of whose devices is in it.
    """
    if given is None:
        around = mesh_around()
        if around is None or not {MEMBER, EXAMPLES} & set(around.axis_names):
            return None
        given = around
    if not isinstance(given, Mesh):
        raise TypeError(f"Expected mesh=jm.mesh(member=..., data=...); got {type(given).__name__}.")
    if other := [name for name, size in given.shape.items() if name not in (MEMBER, EXAMPLES) and size > 1]:
        raise ValueError(f"Expected a mesh with axes 'member' and 'data'; got {other}. Write jm.mesh(data=...).")
    if len({device.process_index for device in given.devices.flat}) < jax.process_count():
        raise ValueError(
            f"Expected a mesh with devices of all {jax.process_count()} processes; some have none in it. Use more "
            f"devices: there are {len(jax.devices())}."
        )
    kept = [name for name in (MEMBER, EXAMPLES) if name in given.axis_names]
    order = [given.axis_names.index(name) for name in kept]
    order += [k for k in range(given.devices.ndim) if k not in order]
    shape = [given.shape.get(name, 1) for name in (MEMBER, EXAMPLES)]
    return Mesh(given.devices.transpose(order).reshape(shape), (MEMBER, EXAMPLES), axis_types=(AxisType.Auto,) * 2)


@contextlib.contextmanager
def within(mesh: Mesh | None) -> Iterator[None]:
    """What a fit computes in.

    Raises:
        ConnectionError: of several processes one is gone.
    """
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh), together() if mesh.is_multi_process else contextlib.nullcontext():
        yield


def width(axis: str) -> int:
    """Over how many devices an axis of the mesh around is shared out, one within a share."""
    around = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(around.axis_names, around.axis_types, strict=True))
    return around.shape[axis] if kinds.get(axis) is AxisType.Auto else 1


def spread(data: Data, mesh: Mesh) -> Data:
    """Put each device's share of the examples there; all of them on every device where N does not divide evenly.

    In either case each device computes with its share alone.
    """
    even = num_examples(data) % mesh.shape[EXAMPLES] == 0
    sharding = NamedSharding(mesh, PartitionSpec(EXAMPLES) if even else PartitionSpec())
    return jax.tree.map(lambda leaf: put(leaf, sharding), data)


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Put an array, of which every process has the whole, on the devices of all of them."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda where: host[where])


def columns_here(size: int) -> np.ndarray:
    """Of the examples of a batch, those that the devices of this process take, within the mesh around."""
    around = mesh_around()
    if around is None or not around.is_multi_process or size % around.shape.get(EXAMPLES, size + 1):
        return np.arange(size)
    here = NamedSharding(around, PartitionSpec(EXAMPLES)).addressable_devices_indices_map((size,))
    return np.unique([np.arange(size)[where] for where in here.values() if where is not None])


def placing_blocks(size: int) -> Callable[[Any], jax.Array]:
    """What puts (steps, examples, ...) on the devices within the mesh around, in each process given its own columns."""
    around, columns = mesh_around(), columns_here(size)
    if around is None or len(columns) == size:
        return placing(None, EXAMPLES)
    sharding = NamedSharding(around, PartitionSpec(None, EXAMPLES))

    def place(leaf: np.ndarray) -> jax.Array:
        def share(where: Any) -> np.ndarray:
            return leaf[:, np.searchsorted(columns, np.arange(size)[where[1]])]

        return jax.make_array_from_callback((len(leaf), size, *leaf.shape[2:]), sharding, share)

    return place


def placing(*axes: str | None) -> Callable[[Any], jax.Array]:
    """What puts arrays where programs within the mesh around want them, along each axis that divides evenly."""
    around = mesh_around()
    if around is None or not {MEMBER, EXAMPLES} <= set(around.axis_names):
        return jax.device_put

    def place(leaf: Any) -> jax.Array:
        sizes = zip(axes, leaf.shape, strict=False)
        even = [axis if axis and size % around.shape[axis] == 0 else None for axis, size in sizes]
        return put(leaf, NamedSharding(around, PartitionSpec(*even)))

    return place


def shared(data: Data) -> Data:
    """Examples, of which each device takes its share in what follows; inside a program."""
    devices = width(EXAMPLES)
    if devices == 1 or num_examples(data) < devices:
        return data
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec(EXAMPLES)), data)


def laid_out(tree: Any, *axes: str | None) -> Any:
    """Results of a program that lie where their next use wants them, along each axis that divides evenly."""
    if width(MEMBER) * width(EXAMPLES) == 1:
        return tree

    def lay(leaf: Any) -> Any:
        even = [a if a and size % width(a) == 0 else None for a, size in zip(axes, leaf.shape, strict=True)]
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*even))

    return jax.tree.map(lay, tree)


def everywhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose results every device, and so every process, has; inside a program."""

    @functools.wraps(function)
    def whole(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        if width(MEMBER) * width(EXAMPLES) == 1:
            return found
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), found)

    return whole


def over_members(function: Callable[..., Any], axes: tuple[Any, ...]) -> Callable[..., Any]:
    """The function of many members at once, in `shares` of them.

    Args:
        function: of one member.
        axes: as for jax.vmap, 0 or None, for each argument; the first one has members.
    """
    batched = jax.vmap(function, axes)

    def of_all(*arguments: Any) -> Any:
        spec = {0: PartitionSpec(MEMBER), None: PartitionSpec()}
        specs = jax.tree.map(lambda axis: spec[axis], axes, is_leaf=lambda axis: axis is None)
        return shares(batched, num_examples(arguments[0]), specs, spec[0])(*arguments)

    return of_all


def shares(function: Callable[..., Any], members: int, ins: Any, outs: Any) -> Callable[..., Any]:
    """The function of many members, each device of the axis `member` calling it with its share of them.

    Shares know nothing of each other: nothing is sent, and loops end when the members of a share are done. Where the
    members do not divide evenly every device takes all.

    Args:
        function: of as many members as it is given.
        members: how many there are.
        ins: the axes of its arguments that members lie on, as partition specs.
        outs: those of its results.
    """
    devices = width(MEMBER)
    if devices == 1 or members % devices:
        return everywhere(function)
    return jax.shard_map(function, in_specs=ins, out_specs=outs, axis_names=frozenset({MEMBER}), check_vma=False)


def mean_of_shares(value: Any) -> Any:
    """The mean over devices of the axis `member`, inside `shares`; elsewhere the value itself."""
    around = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(around.axis_names, around.axis_types, strict=True))
    return jax.lax.pmean(value, MEMBER) if kinds.get(MEMBER) is AxisType.Manual else value


def gathered(tree: Any) -> Any:
    """The same arrays, each whole on every device."""

    def gather(leaf: Any) -> Any:
        apart = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        return jnp.asarray(on_host(leaf)) if apart else leaf

    return jax.tree.map(gather, tree)
