"""The keys of endpoints: from a variable or a file, for the hosts that the settings name and no other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.options import KEY_VARIABLE

# Beside a variable with a key: the file with it, and the hosts that may have it.
FILE, HOSTS = "_FILE", "_HOSTS"
KEY_HOST = re.compile(r"(?:(https?)://)?(\[[0-9a-f:.]+\]|(?:\*\.)?[^\s/@?#:*\[\]]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}


def api_key(variable: str = KEY_VARIABLE) -> str | None:
    """The key in that variable, or in the file that the variable with _FILE names; read again each time.

    Only variables that begin with PGMEANING_API_KEY: otherwise, whoever may add a model could send any variable to a
    server of their own. Raises ModelUnavailable, never with the key in its message.
    """
    if not variable.startswith(KEY_VARIABLE) or variable.endswith((FILE, HOSTS)):
        raise ModelUnavailable(f"api_key_env is {variable!r}", hint=f"it must begin with {KEY_VARIABLE}")
    key, file = os.environ.get(variable), os.environ.get(f"{variable}{FILE}")
    if not key and file:
        try:
            key = Path(file).read_text()
        except (OSError, ValueError):
            raise ModelUnavailable(f"{variable}_FILE names {file!r}, which cannot be read") from None
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelUnavailable(f"{variable} contains characters that no key has", hint="a key is one line of ASCII")
    return key or None


def key_hosts(variable: str) -> list[tuple[str, str, int]]:
    """(scheme, host, port) of those that may have a key; the host may be `*.name`. Raises ModelUnavailable."""
    found = []
    for entry in os.environ.get(f"{variable}{HOSTS}", "").split(","):
        if not entry.strip():
            continue
        match = KEY_HOST.fullmatch(entry.strip())
        if match is None:
            raise ModelUnavailable(
                f"{variable}{HOSTS} has {entry.strip()!r}, which is not a host",
                hint="write api.example, *.example, api.example:8443 or http://vllm:8000, separated by commas",
            )
        host = match[2].lower().strip("[]")
        scheme = (match[1] or ("http" if _is_loopback(host) else "https")).lower()
        found.append((scheme, host, int(match[3] or PORTS[scheme])))
    return found


def may_have_key(url: str, variable: str) -> bool:
    """Whether the very URL that is asked is at a host that may have the key, and by https or as it is named there."""
    asked = httpx.URL(url)
    port = asked.port or PORTS.get(asked.scheme, 0)
    return any(
        _is_host(asked.host.lower().rstrip("."), host) and port == named_port and asked.scheme in (scheme, "https")
        for scheme, host, named_port in key_hosts(variable)
    )


def _is_host(asked: str, named: str) -> bool:
    return asked == named or (named.startswith("*.") and asked.endswith(named[1:]))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def origin(url: str) -> str:
    """The host of a URL as `_HOSTS` has it: without its scheme where that is https."""
    asked = httpx.URL(url)
    name = f"[{asked.host}]" if ":" in asked.host else asked.host
    port = f":{asked.port}" if asked.port else ""
    plain = asked.scheme == "http" and not (asked.port and _is_loopback(asked.host))
    return f"{'http://' if plain else ''}{name}{port}"
