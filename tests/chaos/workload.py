"""What users do meanwhile: write in every way there is, and search."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from pgmeaning import load_embedder
from pgmeaning.models.vectors import prefix
from pgmeaning.types import Document

Connection = psycopg.Connection[Any]
MODEL, OTHER_MODEL = "synthetic-384", "synthetic-4096"
KEYS = 400

TABLES = """
CREATE TABLE plain (id int PRIMARY KEY, body text, size int DEFAULT 0);
CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (200);
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (200) TO (MAXVALUE);
CREATE TABLE "odd Names" ("the key" text, at timestamptz, body text, PRIMARY KEY ("the key", at));
CREATE TABLE long (id bigint PRIMARY KEY, body text);
SELECT pgmeaning.attach('plain', ARRAY['body']);
SELECT pgmeaning.attach('parts', ARRAY['body']);
SELECT pgmeaning.attach('"odd Names"', ARRAY['body'], collection => 'odd');
SELECT pgmeaning.attach('long', ARRAY['body'], chunking => '{"method": "tokens", "size": 32, "overlap": 0}');
"""
# SQLSTATEs that a user may meet here without our doing: lost connections, a server that stops, starts or is full, locks
# and races between users, and tables or columns that somebody is just changing.
EXPLAINED = (
    "08", "57", "53", "40", "55P03", "25006", "25P02", "23505", "21000", "42P01", "42703", "42704", "42804", "55000",
    "23514",
    "PM007", "PM008", "PM009",  # no sidecar, or connection to one, is there just now
    "PM001", "PM010",  # a table or collection is just being replaced
    "PM003", "PM004", "PM011", "PM014", "PM015", "PM022", "PM023",  # to a swap: so is its table, or it lacks rows
)  # fmt: skip


@dataclass
class Findings:
    """What happened: statements and searches, errors by kind, and what must not happen."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    texts: dict[str, set[str]] = field(default_factory=dict)  # by key: every text that the row may ever have had
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Add one."""
        with self.lock:
            self.counts[what] += 1

    def remember(self, place: str, text: str) -> None:
        """A text that a row is about to get."""
        with self.lock:
            self.texts.setdefault(place, set()).add(text)

    def error(self, what: str, error: psycopg.Error) -> None:
        """Count an error that needs no explanation; any other is a finding."""
        state = error.sqlstate
        told = str(error)
        if state is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            self.count(f"{what}: connection")
        elif state is not None and state.startswith(EXPLAINED):
            self.count(f"{what}: {state}")
        else:
            with self.lock:
                self.wrong.append(f"{what}: {state} {told}")


class Worker(threading.Thread):
    """One user with a connection of their own, who goes on after errors."""

    def __init__(self, name: str, dsn: str, seed: int, findings: Findings, stopping: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.dsn = dsn
        self.random = random.Random(seed)
        self.findings = findings
        self.stopping = stopping
        self._connection: Connection | None = None

    def run(self) -> None:
        """Act until told to stop."""
        while not self.stopping.is_set():
            try:
                self.act(self.connection())
                self.findings.count(self.name.split()[0])
            except psycopg.Error as error:
                self.findings.error(self.name.split()[0], error)
                self._recover()
        if self._connection is not None:
            self._connection.close()

    def connection(self) -> Connection:
        """The open connection, or a new one."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=10)
            self._connection.execute("SET lock_timeout = '10s'")
        return self._connection

    def _recover(self) -> None:
        self.stopping.wait(0.05)
        if self._connection is not None:
            try:
                self._connection.rollback()
            except psycopg.Error:
                self._connection.close()

    def act(self, connection: Connection) -> None:
        """Do something."""
        raise NotImplementedError


class Writer(Worker):
    """Writes rows; each text is one of its own, and says which row it belongs to."""

    version = 0

    def act(self, connection: Connection) -> None:
        statements: list[Callable[[Connection], None]] = [
            self.insert, self.insert, self.update, self.update, self.update, self.update_many, self.delete, self.upsert,
            self.move, self.merge, self.blank, self.bulk, self.copy, self.in_transaction, self.in_savepoint,
            self.two_phases, self.odd, self.odd, self.long, self.partition, self.truncate,
        ]  # fmt: skip
        self.random.choice(statements)(connection)
        self.stopping.wait(self.random.random() * 0.02)

    def table(self) -> str:
        return self.random.choice(("plain", "parts"))

    def key(self) -> int:
        return self.random.randrange(KEYS)

    def text(self, table: str, key: object) -> str:
        """A text that no row has had."""
        self.version += 1
        text = f"{table} {key} {self.name} {self.version} {time.monotonic_ns()}"
        self.findings.remember(f"{table} {key}", text)
        return text

    def insert(self, db: Connection) -> None:
        table, key = self.table(), self.key()
        db.execute(
            f"INSERT INTO {table} (id, body) VALUES (%s, %s) ON CONFLICT DO NOTHING", (key, self.text(table, key))
        )

    def update(self, db: Connection) -> None:
        table, key = self.table(), self.key()
        db.execute(f"UPDATE {table} SET body = %s WHERE id = %s", (self.text(table, key), key))

    def update_many(self, db: Connection) -> None:
        table, start = self.table(), self.key()
        keys = list(range(start, start + 150))
        texts = [self.text(table, key) for key in keys]
        db.execute(
            f"UPDATE {table} AS t SET body = n.body FROM unnest(%s::int[], %s::text[]) AS n (id, body) "
            "WHERE t.id = n.id",
            (keys, texts),
        )

    def delete(self, db: Connection) -> None:
        db.execute(f"DELETE FROM {self.table()} WHERE id BETWEEN %s AND %s + 3", (key := self.key(), key))

    def upsert(self, db: Connection) -> None:
        table, key = self.table(), self.key()
        db.execute(
            f"INSERT INTO {table} (id, body) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (key, self.text(table, key)),
        )

    def move(self, db: Connection) -> None:
        """Change a key, and the text."""
        table, key, new = self.table(), self.key(), self.key()
        text = self.text(table, new)
        db.execute(f"UPDATE {table} SET id = %s, body = %s WHERE id = %s", (new, text, key))

    def merge(self, db: Connection) -> None:
        key = self.key()
        db.execute(
            "MERGE INTO plain AS t USING (VALUES (%s::int, %s)) AS n (id, body) ON t.id = n.id "
            "WHEN MATCHED AND t.size > 3 THEN DELETE WHEN MATCHED THEN UPDATE SET body = n.body, size = t.size + 1 "
            "WHEN NOT MATCHED THEN INSERT (id, body) VALUES (n.id, n.body)",
            (key, self.text("plain", key)),
        )

    def blank(self, db: Connection) -> None:
        db.execute(f"UPDATE {self.table()} SET body = NULL WHERE id = %s", (self.key(),))

    def bulk(self, db: Connection) -> None:
        table = self.table()
        rows = [(key, self.text(table, key)) for key in range(KEYS // 2)]
        db.execute(
            f"INSERT INTO {table} (id, body) SELECT * FROM unnest(%s::int[], %s::text[]) ON CONFLICT DO NOTHING",
            ([key for key, _ in rows], [text for _, text in rows]),
        )

    def copy(self, db: Connection) -> None:
        table, start = self.table(), KEYS + self.random.randrange(10**8)
        with db.cursor().copy(f"COPY {table} (id, body) FROM STDIN") as copy:
            for key in range(start, start + 5):
                copy.write_row((key, self.text(table, key)))

    def in_transaction(self, db: Connection) -> None:
        with db.transaction(force_rollback=self.random.random() < 0.3):
            for _ in range(self.random.randrange(1, 5)):
                self.random.choice((self.insert, self.update, self.delete, self.upsert))(db)

    def in_savepoint(self, db: Connection) -> None:
        with db.transaction():
            self.update(db)
            with db.transaction(force_rollback=self.random.random() < 0.5):
                self.insert(db)
                self.delete(db)
            self.upsert(db)

    def two_phases(self, db: Connection) -> None:
        allowed = db.execute("SHOW max_prepared_transactions").fetchone()
        if allowed == ("0",):
            return
        name = f"{self.name} {self.version}"
        db.execute("BEGIN")
        self.upsert(db)
        db.execute(f"PREPARE TRANSACTION '{name}'")
        db.execute(f"{self.random.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")

    def odd(self, db: Connection) -> None:
        key = (f"key {self.random.randrange(30)}", f"2026-01-{self.random.randrange(1, 4):02} 12:00+02")
        text = self.text("odd", key[0])
        db.execute(f"SET timezone = '{self.random.choice(('UTC', 'Asia/Tokyo', 'America/New_York'))}'")
        statement = self.random.choice((
            'INSERT INTO "odd Names" VALUES (%(key)s, %(at)s, %(text)s) ON CONFLICT DO NOTHING',
            'UPDATE "odd Names" SET body = %(text)s WHERE "the key" = %(key)s',
            'DELETE FROM "odd Names" WHERE "the key" = %(key)s AND at = %(at)s',
        ))  # fmt: skip
        db.execute(statement.encode(), {"key": key[0], "at": key[1], "text": text})

    def long(self, db: Connection) -> None:
        key = self.random.randrange(40)
        text = self.text("long", key)
        body = " ".join(f"{text} {number}." for number in range(self.random.randrange(1, 20)))
        db.execute("INSERT INTO long VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body", (key, body))
        if self.random.random() < 0.2:
            db.execute("DELETE FROM long WHERE id = %s", (self.random.randrange(40),))

    def partition(self, db: Connection) -> None:
        """Write to a partition by its own name."""
        key = self.random.randrange(200)
        db.execute("UPDATE parts_low SET body = %s WHERE id = %s", (self.text("parts", key), key))

    def truncate(self, db: Connection) -> None:
        if self.random.random() < 0.05:
            db.execute(f"TRUNCATE {self.table()}")


class Searcher(Worker):
    """Searches, and checks each answer in the snapshot that it came from."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._models = {name: load_embedder(name) for name in (MODEL, OTHER_MODEL)}

    def act(self, connection: Connection) -> None:
        query = f"query {self.random.randrange(20)}"
        table = self.random.choice(("plain", "parts"))
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            model, length = served_by(connection, table)
            hits = self._hits(connection, table, query)
            rows = dict(connection.execute(f"SELECT id, body FROM {table} WHERE id = ANY (%s)", ([*hits],)).fetchall())
        for key, distance in hits.items():
            if key not in rows:
                self.findings.wrong.append(f"search: {table} {key} was found and is not there")
            elif not self._is_of(f"{table} {key}", query, distance, model, length):
                self.findings.wrong.append(f"search: {table} {key} at a distance of another row, or model: {distance}")
        self.stopping.wait(0.02)

    def _hits(self, connection: Connection, table: str, query: str) -> dict[int, float]:
        statement = self.random.choice((
            "SELECT (key ->> 'id')::int, distance FROM pgmeaning.search({0}, {1}, k => 20)",
            "SELECT (hit).id, distance FROM pgmeaning.search(NULL::{2}, {1}, k => 20)",
            "SELECT (key ->> 'id')::int, distance FROM pgmeaning.search({0}, {1}, k => 20, filter => 'id > $1', "
            "filter_params => ARRAY['10'])",
            "SELECT (key ->> 'id')::int, distance FROM pgmeaning.search({0}, {1}, k => 5, mode => 'exact')",
        )).format(f"'{table}'", f"'{query}'", table)  # fmt: skip
        return dict(connection.execute(statement.encode()).fetchall())

    def _is_of(self, place: str, query: str, distance: float, model: str, length: int) -> bool:
        with self.findings.lock:
            texts = [*self.findings.texts.get(place, ()), f"unseen {place.split()[1]}"]
        texts += [text.upper() for text in texts]  # as faults change them
        embedder = self._models[model]
        vectors = prefix(embedder.embed_documents([Document(text=text) for text in texts]), length)
        wanted = prefix(embedder.embed_queries([Document(text=query)]), length)[0]
        return bool(np.min(np.abs(1 - vectors @ wanted - distance)) < 2e-3)  # of half precision, too


def served_by(connection: Connection, collection: str) -> tuple[str, int]:
    """The model and the length of the vectors that a collection is searched by."""
    row = connection.execute(
        "SELECT t.model, t.dimensions FROM pgmeaning.target AS t "
        "JOIN pgmeaning.collection AS c ON c.id = t.collection_id WHERE c.name = %s",
        (collection,),
    ).fetchone()
    return row or (MODEL, 384)


class Swapper(Worker):
    """Changes a collection's model, length or type again and again: forward, back, and to the end."""

    COLLECTION = "plain"
    CHANGES = (
        "model => 'synthetic-4096'", "model => 'synthetic-384'", "dimensions => 128", "dimensions => 256",
        "vector_type => 'halfvec'", "vector_type => 'vector'", "model => 'synthetic-4096', until => 0.5",
        "model => 'synthetic-4096', dimensions => 384, rows_per_second => 400", "language => 'simple'",
    )  # fmt: skip

    def act(self, connection: Connection) -> None:
        row = connection.execute(
            "SELECT state FROM pgmeaning.swap WHERE collection = %s AND state IN ('filling', 'activated')",
            (self.COLLECTION,),
        ).fetchone()
        arguments = f"'{self.COLLECTION}'"
        if row is None:
            call = f"swap_start({arguments}, {self.random.choice(self.CHANGES)})"
        elif row == ("filling",):
            call = self.random.choice((f"swap_activate({arguments})",) * 12 + (f"swap_adjust({arguments})",) * 3
                                      + (f"swap_cancel({arguments})",))  # fmt: skip
        else:
            call = self.random.choice((f"swap_finish({arguments})", f"swap_rollback({arguments})"))
        try:
            connection.execute(f"SELECT pgmeaning.{call}".encode())
            self.findings.count(call.split("(")[0])
        except psycopg.errors.DatabaseError as error:
            if error.sqlstate != "PM023":
                raise
            self.findings.count(f"swapper: {error.diag.message_primary} {error.diag.message_detail}"[:110])
        self.stopping.wait(self.random.random())
