"""Names for the types that tests pass about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]
Connect = Callable[..., Connection]  # the fixture `connect`
Drain = Callable[..., int]  # the fixture `drain`
Rows = list[tuple[Any, ...]]
