"""What goes wrong meanwhile: processes, connections, locks, and what an administrator does to tables."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from pgmeaning.embedded_server.server import EmbeddedServer
from tests.chaos.workload import Connection, Findings

SETTINGS = {
    "PGMEANING_LEASE": "2", "PGMEANING_MAINTENANCE": "0.2", "PGMEANING_MODEL_TIMEOUT": "3", "PGMEANING_GRACE": "1",
    "PGMEANING_BACKOFF": "0.1", "PGMEANING_BACKOFF_MAX": "1", "PGMEANING_CLAIM_ROWS": "64",
    "PGMEANING_BATCH_ROWS": "16", "PGMEANING_INDEX_ROWS": "300", "OMP_NUM_THREADS": "1",
}  # fmt: skip


class Sidecars:
    """Some sidecar processes, each started again whenever it has ended."""

    def __init__(self, dsn: str, count: int, seed: int, findings: Findings, log: Any) -> None:
        self._command = [sys.executable, "-m", "tests.chaos.sidecar", dsn, str(seed)]
        # One of them has a clock that is an hour and a half fast, where that can be had.
        faketime = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        self._skewed = {"LD_PRELOAD": str(faketime), "FAKETIME": "+90m", "DONT_FAKE_MONOTONIC": "1"} if faketime else {}
        self._findings = findings
        self._log = log
        self.processes = [self._start(place) for place in range(count)]

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        environment = os.environ | SETTINGS | (self._skewed if place == 0 else {})
        return subprocess.Popen(self._command, env=environment, stdout=subprocess.DEVNULL, stderr=self._log)

    def look(self) -> None:
        """Start again what has ended."""
        for place, process in enumerate(self.processes):
            if (status := process.poll()) is not None:
                self._findings.count(f"sidecar ended with {status}")
                self.processes[place] = self._start(place)

    def stop(self) -> None:
        """End them all."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Faults:
    """Each method is a fault, there and back again."""

    def __init__(
        self, server: EmbeddedServer, dsn: str, sidecars: Sidecars, seed: int, findings: Findings,
        stopping: threading.Event, disk: Path | None,
    ) -> None:  # fmt: skip
        """`disk`: where the server's data lie, if that is a small file system of their own."""
        self._disk = disk
        self._server = server
        self._dsn = dsn
        self._sidecars = sidecars
        self._random = random.Random(seed)
        self._findings = findings
        self._stopping = stopping

    def run(self, pause: float) -> None:
        """One fault after the other, until told to stop."""
        while not self._stopping.wait(self._random.random() * 2 * pause):
            self._sidecars.look()
            fault = self._random.choice(self.all())
            try:
                fault()
                self._findings.count(f"fault: {fault.__name__}")
            except psycopg.Error as error:
                self._findings.error(f"fault: {fault.__name__}", error)

    def all(self) -> list[Callable[[], None]]:
        """Every fault; those of processes are common, those of the server rare."""
        processes = [self.kill_sidecar, self.stop_sidecar_for_a_moment, self.stop_sidecar_for_long, self.end_sidecar]
        connections = [self.end_backends, self.end_backends, self.end_writers, self.exhaust_connections]
        locks = [self.lock_vectors, self.lock_source, self.lock_queue]
        tables = [
            self.rename_column, self.rename_column_in_a_transaction, self.rename_table, self.add_column,
            self.detach_partition, self.detach_partition_in_a_transaction, self.vacuum_full, self.reindex,
            self.pause, self.refresh, self.retry,
            self.rebuild, self.rename_collection, self.attach_twice,
            self.disable_triggers, self.drop_trigger, self.drop_view, self.change_type,
        ]  # fmt: skip
        server = [self.restart_fast, self.restart_immediately, *([self.fill_disk] if self._disk else [])]
        return [*processes, *processes, *connections, *locks, *tables, *tables, *server]

    # Processes

    def _sidecar(self) -> subprocess.Popen[bytes]:
        return self._random.choice(self._sidecars.processes)

    def kill_sidecar(self) -> None:
        self._sidecar().kill()

    def end_sidecar(self) -> None:
        self._sidecar().terminate()

    def stop_sidecar_for_a_moment(self) -> None:
        self._stopped(1)

    def stop_sidecar_for_long(self) -> None:
        self._stopped(6)

    def _stopped(self, seconds: float) -> None:
        process = self._sidecar()
        process.send_signal(signal.SIGSTOP)
        self._stopping.wait(seconds)
        process.send_signal(signal.SIGCONT)

    def restart_fast(self) -> None:
        self._restart(signal.SIGINT)

    def restart_immediately(self) -> None:
        self._restart(signal.SIGQUIT)

    def fill_disk(self) -> None:
        """The server may well go down of it: then it is started again once there is room."""
        assert self._disk is not None
        filler = self._disk / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        self._stopping.wait(2)
        filler.unlink()
        self._stopping.wait(1)
        if not self._server.status().running:
            self._server.start()

    def _restart(self, number: signal.Signals) -> None:
        pid = self._server.status().pid
        assert pid is not None
        os.kill(pid, number)
        while self._server.status().running:
            self._stopping.wait(0.05)
        self._server.start()

    # Connections

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '5s'")
            yield connection

    def _end(self, condition: str) -> None:
        others = "datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
        statement = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others} AND {condition}"
        with self._connected() as db:
            db.execute(statement.encode())

    def end_backends(self) -> None:
        self._end("application_name LIKE 'pgmeaning %'")

    def end_writers(self) -> None:
        self._end("application_name = ''")

    def exhaust_connections(self) -> None:
        with ExitStack() as stack:
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(psycopg.connect(self._dsn))
            self._stopping.wait(2)

    # Locks

    def _locked(self, statement: str, seconds: float) -> None:
        with self._connected() as db, db.transaction():
            db.execute(statement.encode())
            self._stopping.wait(seconds)

    def lock_vectors(self) -> None:
        self._locked('LOCK pgmeaning_data."plain__synthetic-384" IN SHARE MODE', 3)

    def lock_source(self) -> None:
        self._locked(f"LOCK {self._table()} IN ACCESS EXCLUSIVE MODE", 1)

    def lock_queue(self) -> None:
        self._locked("SELECT FROM pgmeaning.queue LIMIT 20 FOR UPDATE", 1)

    # What an administrator does

    def _table(self) -> str:
        return self._random.choice(("plain", "parts"))

    def _do(self, *statements: str, pause: float = 0.0) -> None:
        """One after the other; each is tried until it is done, since the last ones put everything back."""
        for statement in statements:
            while True:
                try:
                    with self._connected() as db:
                        db.execute(statement.encode())
                    break
                except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.OperationalError):
                    self._findings.count("fault: once more")
            self._stopping.wait(pause)

    def rename_column(self) -> None:
        self._do("ALTER TABLE plain RENAME body TO text", "ALTER TABLE plain RENAME text TO body", pause=0.5)

    def rename_column_in_a_transaction(self) -> None:
        self._do(
            "BEGIN; ALTER TABLE plain RENAME id TO number; UPDATE plain SET size = size WHERE number < 10; "
            "DELETE FROM plain WHERE number BETWEEN 10 AND 15; ALTER TABLE plain RENAME number TO id; COMMIT"
        )

    def rename_table(self) -> None:
        self._do("ALTER TABLE plain RENAME TO another", "ALTER TABLE another RENAME TO plain", pause=0.5)

    def add_column(self) -> None:
        self._do("ALTER TABLE parts ADD more text DEFAULT 'more'", "ALTER TABLE parts DROP more", pause=0.1)

    def detach_partition(self) -> None:
        self._do(
            "ALTER TABLE parts DETACH PARTITION parts_high",
            "ALTER TABLE parts ATTACH PARTITION parts_high FOR VALUES FROM (200) TO (MAXVALUE)", pause=1,
        )  # fmt: skip

    def detach_partition_in_a_transaction(self) -> None:
        self._do(
            "BEGIN; ALTER TABLE parts DETACH PARTITION parts_low; DELETE FROM parts_low WHERE id < 20; "
            "ALTER TABLE parts ATTACH PARTITION parts_low FOR VALUES FROM (MINVALUE) TO (200); COMMIT"
        )

    def vacuum_full(self) -> None:
        table = self._random.choice(
            ("pgmeaning.queue", "pgmeaning.inbox", 'pgmeaning_data."plain__synthetic-384"', "plain")
        )
        self._do(f"VACUUM FULL {table}")

    def reindex(self) -> None:
        self._do(f"REINDEX TABLE {self._random.choice(('pgmeaning.queue', 'plain'))}")

    def pause(self) -> None:
        self._do("SELECT pgmeaning.pause('parts')", "SELECT pgmeaning.resume('parts')", pause=1)

    def refresh(self) -> None:
        self._do("SELECT pgmeaning.refresh('plain')", "SELECT pgmeaning.refresh('parts')")

    def retry(self) -> None:
        self._do("SELECT pgmeaning.retry(collection) FROM pgmeaning.status")

    def disable_triggers(self) -> None:
        self._do(
            "ALTER TABLE plain DISABLE TRIGGER USER",
            "UPDATE plain SET body = 'unseen ' || id WHERE id < 5",
            "ALTER TABLE plain ENABLE TRIGGER USER",
        )

    def drop_trigger(self) -> None:
        self._do(
            "DO $$ BEGIN EXECUTE (SELECT format('DROP TRIGGER %I ON plain', tgname) FROM pg_trigger "
            "WHERE tgrelid = 'plain'::regclass AND NOT tgisinternal ORDER BY random() LIMIT 1); END $$"
        )

    def rebuild(self) -> None:
        """As tools that change tables without a lock end: another table takes the name."""
        self._do(
            "BEGIN; LOCK TABLE plain IN ACCESS EXCLUSIVE MODE; CREATE TABLE rebuilt (LIKE plain INCLUDING ALL); "
            "INSERT INTO rebuilt SELECT * FROM plain; DROP TABLE plain; ALTER TABLE rebuilt RENAME TO plain; COMMIT"
        )

    def rename_collection(self) -> None:
        self._do(
            "SELECT pgmeaning.rename_collection('odd', 'even')", "SELECT pgmeaning.rename_collection('even', 'odd')"
        )

    def attach_twice(self) -> None:
        self._do(
            "SELECT pgmeaning.attach('parts', ARRAY['body'], collection => 'parts_half', vector_type => 'halfvec')",
            "SELECT pgmeaning.detach('parts_half')", pause=1,
        )  # fmt: skip

    def drop_view(self) -> None:
        self._do("DROP VIEW IF EXISTS plain_embedding")

    def change_type(self) -> None:
        self._do("ALTER TABLE plain ALTER body TYPE text USING upper(body)")
