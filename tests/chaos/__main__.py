"""Run it: python -m tests.chaos [--minutes 2] [--seed 1].

Writers, searchers and three sidecars with short leases work on an embedded server while faults happen. Then everybody
stops, a healthy sidecar catches up, and what must be true is checked. Exit status 1 if anything is not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import structlog

from pgmeaning.database import migrate
from pgmeaning.embedded_server.server import EmbeddedServer, any_free_port
from tests.chaos import invariants
from tests.chaos.faults import Faults, Sidecars
from tests.chaos.workload import TABLES, Findings, Searcher, Swapper, Worker, Writer

WRITERS, SEARCHERS, SIDECARS = 4, 2, 3


def chaos(seconds: float, seed: int, pause: float = 1.0) -> Findings:
    """Let everything happen for so long; what must not be is in `wrong` of what is returned."""
    findings, stopping = Findings(), threading.Event()
    with _server(seed) as server:
        dsn = server.dsn
        workers = _workers(dsn, seed, findings, stopping)
        with open(os.environ.get("PGMEANING_CHAOS_LOG", os.devnull), "ab") as log:
            sidecars = Sidecars(dsn, SIDECARS, seed, findings, log)
            disk = server.data_dir.parent if os.path.ismount(server.data_dir.parent) else None
            faults = Faults(server, dsn, sidecars, seed, findings, stopping, disk)
            breaking = threading.Thread(target=faults.run, args=(pause,), daemon=True)
            for thread in (*workers, breaking):
                thread.start()
            time.sleep(seconds)
            stopping.set()
            for thread in (breaking, *workers):
                thread.join(60)
            findings.wrong += [f"{thread.name} does not end" for thread in workers if thread.is_alive()]
            sidecars.stop()
        findings.wrong += invariants.catch_up(dsn) + invariants.broken(dsn) + invariants.swapped(dsn)
    return findings


@contextmanager
def _server(seed: int) -> Iterator[EmbeddedServer]:
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-chaos-"))
    mounted = _mount(folder)
    folder.chmod(0o755)
    settings = {"fsync": "off", "max_connections": "60", "max_prepared_transactions": str(10 * (seed % 2))}
    try:
        with EmbeddedServer(folder / "data", port=any_free_port(), settings=settings) as server:
            migrate.upgrade(server.dsn)
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
                connection.execute(TABLES)
            yield server
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(folder: Path) -> bool:
    """A small disk, where we may mount one; returns whether."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=700m", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _workers(dsn: str, seed: int, findings: Findings, stopping: threading.Event) -> list[Worker]:
    writers = [Writer(f"writer {n}", dsn, seed * 100 + n, findings, stopping) for n in range(WRITERS)]
    searchers = [Searcher(f"searcher {n}", dsn, seed * 100 + 50 + n, findings, stopping) for n in range(SEARCHERS)]
    return [*writers, *searchers, Swapper("swapper", dsn, seed * 100 + 90, findings, stopping)]


def main() -> int:
    """Print what happened, and what must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    findings = chaos(options.minutes * 60, options.seed)
    for what, count in sorted(findings.counts.items()):
        print(f"{count:8}  {what}")
    for wrong in findings.wrong[:50]:
        print("WRONG:", wrong)
    print(f"{options.minutes:g} minutes, seed {options.seed}: {len(findings.wrong)} promises broken")
    return int(bool(findings.wrong))


if __name__ == "__main__":
    sys.exit(main())
