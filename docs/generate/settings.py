"""The settings: their variables, defaults and descriptions."""

from __future__ import annotations

from typing import Any

from pgmeaning.settings import Settings

HEAD = """# Settings

<!-- Written by `make docs` from src/pgmeaning/settings.py. -->

The sidecar reads its settings from environment variables; so do the Python client and the command line, as far as a
setting concerns them. Times are in seconds.

`--dsn` shows in the list of processes, to every user of the machine. With a password in it, put the DSN into a file
that only its user may read and name that (`pgmeaning --dsn-file FILE sidecar`, or `PGMEANING_DSN_FILE`, as with the
secrets of Docker and Kubernetes), or leave the password to libpq: `~/.pgpass`, `PGPASSFILE`, `PGSERVICE`. A DSN with a
typing error is refused without a word of it being shown.

| variable | default | meaning |
|---|---|---|
"""

TAIL = """
More variables: `PGMEANING_RERANKER` names the model that `pgmeaning.rerank()` uses by default. `PGMEANING_API_KEY`, or
the file that `PGMEANING_API_KEY_FILE` names, holds the key of an [endpoint](engines.md#the-key), and
`PGMEANING_API_KEY_HOSTS` the hosts that may have it: without that, none has.
"""


def page() -> str:
    """The page, a row for each field."""
    rows = [
        f"| `PGMEANING_{name.upper()}` | {_default(field.default)} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "".join(rows) + TAIL


def _default(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:,}"
    return str(value or "")
