"""What may be read, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """By default nothing is read but what is given: bytes and data URIs. Values in a table are of unknown origin.

    A host is a name, `*.name` for all below it, or `*`; `name:port` where the port is not its scheme's own. Those of
    `private_hosts` may also have private or loopback addresses, as in an intranet.
    """

    folders: tuple[Path, ...] = ()  # files below these; a relative path is looked for in each
    any_folder: bool = False
    hosts: tuple[str, ...] = ()
    private_hosts: tuple[str, ...] = ()
    max_bytes: int = 64 * MEBIBYTE  # of one picture or video, encoded
    max_pixels: int = 64_000_000  # of one picture or frame
    max_seconds: float = 600  # of one video
    timeout: float = 20  # for one URL, from the first look-up of its name to the last byte


# What an application's own code names: any file, but no URL.
TRUSTED = Policy(any_folder=True)
