"""Reads files below the allowed folders, without following a link out of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pgmeaning.errors import InputError
from pgmeaning.media.policy import Policy

# Do not wait for the writer of a FIFO, nor follow a link that has replaced the file since the check.
OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
BENEATH = OPEN | os.O_NOFOLLOW
HINT = "PGMEANING_MEDIA_FOLDERS names the folders that files may be read from"


def read_file(path: Path, policy: Policy) -> bytes:
    """The bytes of a regular file that the policy allows; raises InputError."""
    name = repr(str(path) if len(str(path)) <= 80 else str(path)[:80] + "...")
    try:
        descriptor = os.open(path, OPEN) if policy.any_folder else _open_beneath(path, policy, name)
        with os.fdopen(descriptor, "rb") as file:
            return _read(file.fileno(), name, policy)
    except FileNotFoundError:
        raise InputError(f"there is no file {name}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"file {name} cannot be read: {reason}") from None


def _read(descriptor: int, name: str, policy: Policy) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is not a regular file")
    if status.st_size > policy.max_bytes:
        raise InputError(
            f"file {name} has {status.st_size:,} bytes, more than the {policy.max_bytes:,} allowed",
            hint="PGMEANING_MEDIA_MAX_BYTES allows more",
        )
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(policy.max_bytes + 1)


def _open_beneath(path: Path, policy: Policy, name: str) -> int:
    if not policy.folders:
        raise InputError(f"file {name} may not be read: no folder is allowed", hint=HINT)
    if ".." in path.parts:
        raise InputError(f"path {name} has '..' in it, which is not allowed", hint="name the file by its full path")
    outside = False
    for folder in policy.folders:
        root, target = os.path.realpath(folder), os.path.realpath(folder / path)
        if not Path(target).is_relative_to(root):
            outside = True
        elif os.path.lexists(target):
            return _open_parts(root, Path(target).relative_to(root).parts)
    if outside:
        raise InputError(f"file {name} is not below an allowed folder", hint=HINT)
    raise FileNotFoundError(name)


def _open_parts(root: str, parts: tuple[str, ...]) -> int:
    """Open one folder after the other, so that a link put in the way meanwhile has no effect."""
    descriptor = os.open(root, OPEN)
    for part in parts:
        above = descriptor
        try:
            descriptor = os.open(part, BENEATH, dir_fd=above)
        finally:
            os.close(above)
    return descriptor
