"""Folders on disk: arrays in safetensors, everything else in JSON with a checksum, never pickle."""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxmap.model import Space
from jaxmap.trees import paths
from jaxmap.types import Certificate, Info, Status

HEADER = "posterior.json"


@dataclass(frozen=True)
class Saved:
    """What a folder holds: a header of plain values, and arrays by name."""

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write_saved(folder: str | Path, saved: Saved) -> Path:
    """Write a folder atomically: first the arrays under the name of their checksum, then the header.

    A reader sees the old folder or the new one, never half of one.

    Raises:
        ValueError: the path is a file.
    """
    folder = folder_for("the posterior", folder)
    content = save({name: np.asarray(array, order="C") for name, array in saved.arrays.items()})
    name = f"arrays-{hashlib.sha256(content).hexdigest()}.safetensors"
    write_atomically(folder / name, content)
    body = json.dumps(saved.header | {"arrays": name})
    sealed = {"checksum": hashlib.sha256(body.encode()).hexdigest(), "body": body}
    write_atomically(folder / HEADER, json.dumps(sealed).encode())
    for other in folder.glob("arrays-*.safetensors"):
        if other.name != name:
            other.unlink(missing_ok=True)  # another process may have saved the same here
    return folder


def read_saved(folder: str | Path) -> Saved:
    """Read a folder back.

    Raises:
        ValueError: nothing was saved there, or the files were truncated or changed.
    """
    folder = Path(folder)
    try:
        sealed = json.loads((folder / HEADER).read_text())
        body = sealed["body"]
        if hashlib.sha256(body.encode()).hexdigest() != sealed["checksum"]:
            raise ValueError(f"Expected the header that was saved in {folder}; its checksum differs. Save it again.")
        header = json.loads(body)
        content = (folder / header["arrays"]).read_bytes()
        if f"arrays-{hashlib.sha256(content).hexdigest()}.safetensors" != header["arrays"]:
            raise ValueError(f"Expected the arrays that were saved in {folder}; their checksum differs.")
        return Saved(header, load(content))
    except FileNotFoundError as error:
        raise ValueError(f"Expected a saved posterior in {folder}; got no {Path(error.filename).name}.") from error
    except (json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"Expected a whole saved posterior in {folder}; it cannot be read: {error}") from error


def pack_tree(tree: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Put the leaves into `arrays` under name/0, name/1, ... and return the structure as plain values.

    Trees of other nodes than dicts, lists and tuples become {"paths": ...} and need a template when read.
    """
    leaves = jax.tree.leaves(tree)
    arrays |= {f"{name}/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    counter = iter(range(len(leaves)))
    plain = _plain(tree, counter)
    return {"paths": paths(tree), "size": len(leaves)} if plain is None else {"tree": plain, "size": len(leaves)}


def unpack_tree(packed: Any, name: str, arrays: dict[str, np.ndarray], template: Any = None) -> Any:
    """Rebuild a tree of numpy arrays.

    Raises:
        ValueError: the structure needs a template and none was given, or the template has another number of leaves.
    """
    leaves = [arrays[f"{name}/{i}"] for i in range(packed["size"])]
    if "tree" in packed:
        return _rebuild(packed["tree"], leaves)
    if template is None:
        raise ValueError(
            f"Expected model=... to load parameters that are not plain dicts, lists and tuples "
            f"({', '.join(packed['paths'][:3])}, ...). Give jm.load(folder, model=model)."
        )
    structure = jax.tree.structure(template)
    if structure.num_leaves != len(leaves):
        raise ValueError(f"Expected a model with {len(leaves)} parameter leaves; got {structure.num_leaves}.")
    return structure.unflatten(leaves)


def pack_info(info: Info, arrays: dict[str, np.ndarray], name: str = "") -> dict[str, Any]:
    """An `Info` as plain values; its history goes to the arrays."""
    apart = ("history", "held_out")
    arrays |= {f"{name}{field}": np.asarray(getattr(info, field)) for field in apart}
    plain = {k: v for k, v in vars(info).items() if k not in ("status", "certificate", "members", *apart)}
    certificate = None if info.certificate is None else asdict(info.certificate)
    return plain | {
        "status": info.status.name,
        "members": [status.name for status in info.members],
        "certificate": certificate,
    }


def unpack_info(plain: dict[str, Any], arrays: dict[str, np.ndarray], name: str = "") -> Info:
    """The inverse of `pack_info`."""
    certificate = plain["certificate"]
    if certificate is not None:
        certificate = Certificate(**certificate | {name: tuple(certificate.get(name, ())) for name in ("flat", "held")})
    fixed = {
        "status": Status[plain["status"]],
        "members": tuple(Status[member] for member in plain["members"]),
        "certificate": certificate,
        "notes": tuple(plain["notes"]),
        "history": arrays[f"{name}history"],
        "held_out": arrays.get(f"{name}held_out", np.zeros((0, 2))),
    }
    return Info(**plain | fixed)


def space_of(header: dict[str, Any], tree: Any, model: Any) -> Space:
    """The space of a saved posterior: the model's if given, else rebuilt from the names of its constraints.

    Raises:
        ValueError: a constraint that only the model knows.
    """
    if model is not None:
        return model.space
    return Space.from_plain(header["space"], tree)


def _plain(tree: Any, counter: Any) -> Any:
    """Nested lists that mirror dicts, lists and tuples, in the order of jax; None for any other node."""
    if isinstance(tree, dict) and type(tree) is dict:
        if not all(isinstance(key, str | int) for key in tree):
            return None
        children = [[key, _plain(tree[key], counter)] for key in sorted(tree)]
        return None if any(child is None for _, child in children) else {"dict": children}
    if type(tree) in (list, tuple):
        children = [_plain(child, counter) for child in tree]
        return None if any(child is None for child in children) else {type(tree).__name__: children}
    return {"leaf": next(counter)} if jax.tree.structure(tree).num_nodes == 1 and tree is not None else None


def _rebuild(plain: Any, leaves: list[Any]) -> Any:
    (kind, inside), *_ = plain.items()
    if kind == "leaf":
        return leaves[inside]
    if kind == "dict":
        return {key: _rebuild(child, leaves) for key, child in inside}
    children = [_rebuild(child, leaves) for child in inside]
    return tuple(children) if kind == "tuple" else children


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name, flush it to the disk, rename it: the old one or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def sweep_up(folder: Path) -> None:
    """Remove the files that a writer which was killed left half written."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def folder_for(kind: str, folder: str | Path) -> Path:
    """Make a folder to write to.

    Raises:
        ValueError: the path is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder for {kind}; got the file {folder}. Name another.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
