"""A web page to look at: searches side by side, what is going on. For one person, on their own machine.

`serve` and `serving` are what others open it by. The packages of the extra `ui` are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgmeaning.console.server import serve, serving

__all__ = ["serve", "serving"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'pgmeaning.console' has no attribute {name!r}")
        from pgmeaning.console import server

        return getattr(server, name)
