"""One run at a time in a folder."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxmap.infer.storage import folder_for

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"

TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if absent, for one run.

    The operating system lets go of the lock when its process ends, however it ends, so that a lock that a dead process
    left is taken over. Where a file system or a system knows no such locks, nothing is locked.

    Args:
        folder: of the run.

    Raises:
        ValueError: another run holds it; says which process.
    """
    path = folder_for("a run", folder) / LOCK
    held = None if fcntl is None else _taken(path)
    try:
        yield
    finally:
        if held is not None:
            path.unlink(missing_ok=True)  # before it is let go, so that nobody else's is removed
            os.close(held)


def _taken(path: Path) -> int | None:
    """Open and lock the file of this name; None where it cannot be locked at all."""
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[union-attr]
        except OSError as error:
            holder = os.read(opened, 200).decode(errors="replace").strip()
            os.close(opened)
            if error.errno not in TAKEN:
                return None
            raise ValueError(
                f"Expected a folder that no other run writes to; {path.parent} is held by {holder or 'another one'}. "
                "Wait until it ends, or name another folder."
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(opened), os.stat(path)):
                os.ftruncate(opened, 0)
                os.write(opened, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return opened
        os.close(opened)  # whoever held it removed this file in the meantime
