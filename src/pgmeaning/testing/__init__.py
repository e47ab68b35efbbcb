"""Tests of programs that search: rows and queries embedded inside a test's own transaction, without a sidecar.

`pip install 'pgmeaning[testing]'` brings the fixtures of `pgmeaning.testing.plugin` into every pytest run.
"""

from pgmeaning.testing.embedding import embed_now

__all__ = ["embed_now"]
