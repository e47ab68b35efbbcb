"""A sidecar process that stops dead at one step of the pipeline, to be killed there; run by test_sidecar_crash.py.

    python -m tests.integration.breaking DSN STEP

It says "reached" on stderr at that step and waits for ever. STEP "query" does so at a query; "poison" kills the process
itself at a text 'poison'; "frozen" keeps Python's lock for ever; "stay" runs until a signal.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar import read, write
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.watch import end_when_frozen
from pgmeaning.types import Document
from tests.integration.embedders import Watched
from tests.probes import are_probes

STEPS = {
    "claimed": (Queue, "claim"),
    "read": (read, "read_rows"),
    "uncommitted": (Queue, "finish"),
    "written": (write, "write"),
}


def stop_after(owner: Any, name: str) -> None:
    """Let the first call that found something return to nobody."""
    original = getattr(owner, name)

    def _stopping(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        if result:
            wait_to_be_killed()
        return result

    setattr(owner, name, _stopping)


def wait_to_be_killed() -> None:
    os.write(2, b"reached\n")  # not where the log goes, which would tear it apart
    threading.Event().wait()


def act(step: str, texts: list[str], vectors: Vectors) -> Vectors:
    """What the model does besides embedding."""
    if step == "embedding":
        wait_to_be_killed()
    if step == "frozen":
        re.match(r"(a+)+$", "a" * 60 + "b")  # for ever, and it keeps Python's lock
    if step == "poison" and "poison" in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return vectors


class Queries(Watched):
    """Stops dead at a query."""

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        if are_probes(queries):
            return super().embed_queries(queries)
        wait_to_be_killed()
        raise AssertionError


def main(dsn: str, step: str) -> int:
    """Run the sidecar; settings come from the environment."""
    if step in STEPS:
        stop_after(*STEPS[step])
    model = (Queries if step == "query" else Watched)(lambda texts, vectors: act(step, texts, vectors))
    beat = partial(end_when_frozen, 0, 2) if step == "frozen" else bool
    sidecar = Sidecar(dsn, Settings(), load=model.load, beat=beat)
    signal.signal(signal.SIGTERM, lambda *_: sidecar.stop())
    return sidecar.run(drain=step not in ("stay", "embedding", "query"))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
