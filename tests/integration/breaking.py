"""A sidecar process that stops dead at one step of the pipeline, to be killed there; run by test_sidecar_crash.py.

    python -m tests.integration.breaking DSN STEP

It says "reached" on stderr at that step and waits for ever. STEP "poison" kills the process itself at a text
'poison'; "stay" runs until a signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar import read, write
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.queue import Queue
from tests.integration.embedders import Watched

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
    if step == "poison" and "poison" in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return vectors


def main(dsn: str, step: str) -> int:
    """Run the sidecar; settings come from the environment."""
    if step in STEPS:
        stop_after(*STEPS[step])
    sidecar = Sidecar(dsn, Settings(), load=Watched(lambda texts, vectors: act(step, texts, vectors)).load)
    signal.signal(signal.SIGTERM, lambda *_: sidecar.stop())
    return sidecar.run(drain=step not in ("stay", "embedding"))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
