"""A Model Context Protocol server, by which agents search collections: `pgmeaning mcp`.

Read-only tools, with the rights and the row security of the role that the server logs in as. A model's words never
become SQL: filters are columns, operators and values, and values become parameters.
"""

from pgmeaning.integrations.mcp.database import Database
from pgmeaning.integrations.mcp.http import application, serve_http
from pgmeaning.integrations.mcp.server import build, serve_stdio

__all__ = ["Database", "application", "build", "serve_http", "serve_stdio"]
