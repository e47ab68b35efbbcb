"""What may be read, how much of it, and how an error names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pgmeaning.errors import InputError

MEBIBYTE = 1 << 20
SHOWN = 80  # characters of a source that an error repeats


@dataclass(frozen=True, slots=True)
class Policy:
    """By default only bytes and data URIs are read, and no files or URLs: values in a table are of unknown origin.

    A host is a name, `*.name` for all names below it, or `*`; `name:port` if the port is not the scheme's default.
    `private_hosts` may also have private or loopback addresses, as in an intranet.
    """

    folders: tuple[Path, ...] = ()  # files below these may be read; a relative path is looked up in each
    any_folder: bool = False
    hosts: tuple[str, ...] = ()
    private_hosts: tuple[str, ...] = ()
    max_bytes: int = 64 * MEBIBYTE  # of one image or video, encoded
    max_pixels: int = 64_000_000  # of one image or frame
    max_row_pixels: int = 512_000_000  # of all images of a row, and of all frames of its animations
    max_video_pixels: int = 16_000_000_000  # of all frames of a row's videos; they are decoded ten times as fast
    max_seconds: float = 600  # of one video
    timeout: float = 20  # for one URL, from the DNS look-up to the last byte


# For what an application's own code names: any file, but no URL.
TRUSTED = Policy(any_folder=True)


class Checked(bytes):
    """Encoded bytes that a policy has passed: it, and no narrower one, holds when they are decoded later."""

    policy: Policy

    def __new__(cls, data: bytes, policy: Policy) -> Checked:
        """The bytes, and the policy that they passed."""
        made = super().__new__(cls, data)
        made.policy = policy
        return made


def policy_for(source: object, policy: Policy) -> Policy:
    """The policy that a source is decoded under."""
    return source.policy if isinstance(source, Checked) else policy


def too_large(what: str, policy: Policy) -> InputError:
    """The error for more bytes than the policy allows."""
    return InputError(
        f"{what} are more than the {policy.max_bytes:,} allowed", hint="PGMEANING_MEDIA_MAX_BYTES allows more"
    )


def shown(source: object) -> str:
    """A source as an error may show it: short, and a URL without its query, which may contain a key."""
    text = str(source)
    if text[:5].lower() == "data:":
        text = text.partition(",")[0] + ",..."
    elif "://" in text[:12]:
        text = re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", text)[0])
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
