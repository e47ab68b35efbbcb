"""Values of variables that may also stand in a file, such as a secret of Docker or Kubernetes."""

from __future__ import annotations

import os

from pgmeaning.errors import SettingsError


def secret(variable: str) -> str:
    """The value of a variable, or what is in the file that the same name with _FILE names; empty if there is neither.

    Raises SettingsError for a file that cannot be read.
    """
    file = os.environ.get(f"{variable}_FILE")
    return os.environ.get(variable) or (read_secret(f"{variable}_FILE", file) if file else "")


def read_secret(setting: str, file: str) -> str:
    """What is in a file that a setting names, without the blanks around it."""
    try:
        with open(file, encoding="utf-8") as opened:
            found = opened.read().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{setting} names {file!r}, which cannot be read: {reason}") from None
    if not found:
        raise SettingsError(f"{setting} names {file!r}, which is empty")
    return found
