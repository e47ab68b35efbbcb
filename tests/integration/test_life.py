"""A collection's whole life, in steps that hypothesis makes up: whatever happens, a drain sets everything right."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.database.targets import targets
from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.scan import scan_page
from pgmeaning.sidecar.source import Source
from pgmeaning.types import Model
from tests.conftest import _create, _drop
from tests.integration.embedders import Watched
from tests.integration.life import KINDS, MODEL, ghosts, left_over, misses, not_ready, vector_table, vectors_differ

# PGMEANING_LIFE_EXAMPLES: so many lives instead, other ones each time, and what fails is made small.
MANY = int(os.environ.get("PGMEANING_LIFE_EXAMPLES", "0"))
STEPS = 20
QUICK = Settings(maintenance=0.1, poll=0.1, attempts=2, backoff=0.01)
DRAIN_SECONDS = 60
# A sidecar that dies with the same rows too often makes them fail, rightly.
DEATHS = 1

KEYS = st.integers(1, 12)
LONG = st.integers(0, 2).map(lambda n: " ".join(f"Word{n} number {i}." for i in range(500)))
TEXTS = st.one_of(st.integers(0, 30).map("text {}".format), LONG, st.sampled_from([None, "", " \t"]))
ROWS = st.lists(st.tuples(KEYS, TEXTS, TEXTS), min_size=1, max_size=4, unique_by=lambda row: row[0])
NAMES = st.sampled_from(["docs", "second", "third"])
KIND = st.sampled_from(sorted(KINDS))
PLACES = st.integers(0, 5)  # a collection is the one at that place, around a circle
_numbers = itertools.count(1)

PUT = (
    "INSERT INTO {t} (id, {title}, {body}) VALUES (%s, %s, %s) "
    "ON CONFLICT (id) DO UPDATE SET {title} = excluded.{title}, {body} = excluded.{body}"
)
BULK = (
    "INSERT INTO {t} (id, {title}, {body}) SELECT 100 + i, 'bulk ' || i, 'text ' || mod(i, 7) FROM generate_series(1, %s::int) AS i "
    "ON CONFLICT (id) DO UPDATE SET {body} = excluded.{title}"
)


class Life(RuleBasedStateMachine):
    """A table with up to three collections. What is known here is what it was told, not what it made of it."""

    server_dsn: str
    template: str

    def __init__(self) -> None:
        super().__init__()
        self.database = f"pgmeaning_life_{os.getpid()}_{next(_numbers)}"
        _create(self.server_dsn, self.database, self.template)
        self.dsn = make_conninfo(self.server_dsn, dbname=self.database)
        self.db = psycopg.connect(self.dsn, autocommit=True)
        ensure_loopback(self.db)
        self.collections: dict[str, str] = {}  # their kinds
        self.paused: set[str] = set()
        self.table = "docs"
        self.names = {"title": "title", "body": "body"}  # what its columns are called
        self.key_type = "int"
        self.exists = True
        self.adopted = True  # whether a sidecar has seen the table, should it have been made anew
        self.deaths = 0
        # What a sidecar has seen: a table is known by the name that it had then.
        self.seen_table, self.seen_key_type = self.table, self.key_type
        # What no trigger sees, as for writes by replication, a reconcile finds.
        self.unseen = False
        self.make_table()

    # What happens together may hide that one of the two is not noticed: in some lives each step stands alone.
    @initialize(every=st.sampled_from([1, 2, 4]), kind=KIND)
    def begin(self, every: int, kind: str) -> None:
        self.every, self.steps = every, 0
        self.put([(key, f"text {key}", "body" if key % 2 else None) for key in range(1, 13)])
        self.attach("docs", kind)

    def teardown(self) -> None:
        try:
            if not self.exists:
                self.make_again([(1, "back", "again")])
            self.column_back()
            self.drain()
            for place in range(len(self.collections)):
                self.resume(place)
            self.drain()
        finally:
            self.db.close()
            _drop(self.server_dsn, self.database)

    # ------------------------------------------------------------ How statements are made

    def run(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        """Run statements in one transaction; {t}, {title}, {body} are the names that they have now."""
        names = {"t": self.table, **self.names}
        quoted = {name: sql.Identifier(value) for name, value in names.items()}
        with self.db.transaction():
            for statement in statements:
                self.db.execute(sql.SQL(statement).format(**quoted), values if "%s" in statement else None)

    def put(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        for row in rows:
            self.run(PUT, values=row)

    def call(self, call: str, *arguments: object) -> bool:
        """Call a function of ours; returns whether it worked, as it must unless the table is not there."""
        try:
            self.db.execute(f"SELECT pgmeaning.{call}".encode(), arguments)
        except psycopg.Error as error:
            if self.adopted or not (error.sqlstate or "").startswith("PM"):
                raise
            return False
        return True

    def at(self, place: int) -> str:
        names = sorted(self.collections)
        return names[place % len(names)]

    @property
    def is_healthy(self) -> bool:
        return self.exists and self.names["body"] == "body"

    def make_table(self) -> None:
        self.run(f"CREATE TABLE {{t}} (id {self.key_type} PRIMARY KEY, {{title}} text, {{body}} text)")

    # ------------------------------------------------------------ Writes

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS)
    def upsert(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        self.put(rows)

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS)
    def copy_in_one_transaction(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        with self.db.transaction():
            self.run("DELETE FROM {t} WHERE id <= 12")
            self.put(rows)

    @precondition(lambda self: self.exists)
    @rule(key=KEYS, text=TEXTS)
    def update(self, key: int, text: str | None) -> None:
        self.run("UPDATE {t} SET {body} = %s WHERE id >= %s", values=(text, key))

    @precondition(lambda self: self.exists)
    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        self.run("DELETE FROM {t} WHERE id = %s", values=(key,))

    @precondition(lambda self: self.exists)
    @rule(by=st.sampled_from([1, 13, 1000]))
    def change_keys(self, by: int) -> None:
        self.run("UPDATE {t} SET id = -id", "UPDATE {t} SET id = -id + %s", values=(by,))
        self.run("DELETE FROM {t} WHERE id > 3000")

    @precondition(lambda self: self.exists)
    @rule(rows=st.integers(1, 300))
    def bulk_insert(self, rows: int) -> None:
        self.run(BULK, values=(rows,))

    @precondition(lambda self: self.exists)
    @rule(again=st.booleans())
    def truncate(self, again: bool) -> None:
        with self.db.transaction():
            self.run("CREATE TEMP TABLE old ON COMMIT DROP AS SELECT * FROM {t}", "TRUNCATE {t}")
            if again:
                self.run("INSERT INTO {t} SELECT * FROM old")

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS)
    def roll_back(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        with self.db.transaction(force_rollback=True):
            self.put(rows)
            self.run("TRUNCATE {t}")

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS)
    def savepoint(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        with self.db.transaction():
            self.put(rows[:1])
            with self.db.transaction(force_rollback=True):
                self.put(rows[1:])
                self.run("DELETE FROM {t}")

    # ------------------------------------------------------------ Writes that no trigger sees

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS, key=KEYS)
    def write_as_a_replica(self, rows: list[tuple[int, str | None, str | None]], key: int) -> None:
        with self.db.transaction():
            self.db.execute("SET LOCAL session_replication_role = replica")
            self.put(rows)
            self.run("DELETE FROM {t} WHERE id = %s", values=(key,))
        self.unseen = True

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS, one=st.booleans())
    def write_with_triggers_disabled(self, rows: list[tuple[int, str | None, str | None]], one: bool) -> None:
        self.run("ALTER TABLE {t} DISABLE TRIGGER USER")
        self.put(rows)
        self.run("DELETE FROM {t} WHERE id = 3")
        self.run("ALTER TABLE {t} ENABLE TRIGGER USER")

    @precondition(lambda self: self.exists)
    @rule(rows=ROWS, place=st.integers(0, 50))
    def drop_a_trigger(self, rows: list[tuple[int, str | None, str | None]], place: int) -> None:
        query = "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY tgname"
        triggers = self.db.execute(query, (self.table,)).fetchall()
        if triggers:
            name = triggers[place % len(triggers)][0]
            self.db.execute(sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), sql.Identifier(self.table)))
            self.put(rows)

    @precondition(lambda self: self.collections)
    @rule(place=PLACES)
    def drop_the_view(self, place: int) -> None:
        self.db.execute(f"DROP VIEW IF EXISTS {self.at(place)}_embedding".encode())

    @precondition(lambda self: self.collections)
    @rule(place=PLACES, key=KEYS)
    def lose_vectors(self, place: int, key: int) -> None:
        self.db.execute(f"DELETE FROM {vector_table(self.db, self.at(place))} WHERE id <= %s".encode(), (key,))
        self.unseen = True

    # ------------------------------------------------------------ What becomes of the table

    @precondition(lambda self: self.is_healthy)
    @rule()
    def rename_column(self) -> None:
        self.run("ALTER TABLE {t} RENAME COLUMN {body} TO content")
        self.names["body"] = "content"

    @precondition(lambda self: self.exists)
    @rule()
    def column_back(self) -> None:
        if self.names["body"] == "content":
            self.run("ALTER TABLE {t} RENAME COLUMN {body} TO body")
            self.names["body"] = "body"

    @precondition(lambda self: self.is_healthy)
    @rule(rows=ROWS, column=st.sampled_from(["id", "body"]))
    def rename_column_and_back_at_once(self, rows: list[tuple[int, str | None, str | None]], column: str) -> None:
        with self.db.transaction():
            self.run(f"ALTER TABLE {{t}} RENAME COLUMN {column} TO other")
            if column == "body":
                self.names["body"] = "other"
                self.put(rows)
            else:
                self.run("UPDATE {t} SET {title} = 'renamed' WHERE other < 5", "DELETE FROM {t} WHERE other = 7",
                         "INSERT INTO {t} (other, {title}) VALUES (11, 'new') ON CONFLICT DO NOTHING")  # fmt: skip
            self.run(f"ALTER TABLE {{t}} RENAME COLUMN other TO {column}")
            self.names["body"] = "body"

    @precondition(lambda self: self.adopted)
    @rule(rows=ROWS)
    def rename_the_table_or_back(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        new = {"docs": "moved", "moved": "docs"}[self.table]
        self.run(f"ALTER TABLE {{t}} RENAME TO {new}")
        self.table = new
        self.put(rows)

    @precondition(lambda self: self.exists)
    @rule()
    def rewrite_columns(self) -> None:
        self.run("ALTER TABLE {t} ALTER COLUMN {title} TYPE text USING {title} || '!', "
                 "ALTER COLUMN {body} TYPE text USING {body} || '!'")  # fmt: skip

    @precondition(lambda self: self.is_healthy)
    @rule()
    def swap_columns(self) -> None:
        self.run("ALTER TABLE {t} RENAME COLUMN title TO other", "ALTER TABLE {t} RENAME COLUMN body TO title",
                 "ALTER TABLE {t} RENAME COLUMN other TO body")  # fmt: skip

    @precondition(lambda self: self.exists)
    @rule()
    def drop_and_add_a_column(self) -> None:
        self.run("ALTER TABLE {t} DROP COLUMN {title}", "ALTER TABLE {t} ADD COLUMN {title} text DEFAULT 'default'")

    @precondition(lambda self: self.exists and self.key_type == "int")
    @rule()
    def widen_the_key(self) -> None:
        self.run("ALTER TABLE {t} ALTER COLUMN id TYPE bigint")
        self.key_type = "bigint"

    # A sidecar looks every few seconds: a table that was renamed since is not known by its name.
    @precondition(lambda self: self.exists and self.table == self.seen_table)
    @rule()
    def drop_the_table(self) -> None:
        self.run("CREATE TABLE IF NOT EXISTS dropped AS SELECT NULL::bigint AS id, '' AS title, '' AS body",
                 "TRUNCATE dropped", "INSERT INTO dropped SELECT id, {title}, {body} FROM {t}", "DROP TABLE {t}")  # fmt: skip
        self.exists = self.adopted = False

    @precondition(lambda self: not self.exists)
    @rule(rows=ROWS)
    def make_again(self, rows: list[tuple[int, str | None, str | None]]) -> None:
        self.names["body"] = "body"
        self.make_table()
        self.exists = True
        self.run("INSERT INTO {t} (id, {title}, {body}) SELECT id, title, body FROM dropped")
        self.put(rows)

    @precondition(lambda self: self.exists and self.table == self.seen_table)
    @rule(rows=ROWS, swapped=st.booleans())
    def rebuild(self, rows: list[tuple[int, str | None, str | None]], swapped: bool) -> None:
        with self.db.transaction():
            self.run("CREATE TABLE rebuilt (LIKE {t} INCLUDING ALL)", "INSERT INTO rebuilt SELECT * FROM {t}")
            if swapped:
                self.run("ALTER TABLE {t} RENAME TO gone", "ALTER TABLE rebuilt RENAME TO {t}", "DROP TABLE gone")
            else:
                self.run("DROP TABLE {t}", "ALTER TABLE rebuilt RENAME TO {t}")
            self.put(rows)
        self.adopted = False

    # ------------------------------------------------------------ What is done with collections

    @precondition(lambda self: self.is_healthy)
    @rule(name=NAMES, kind=KIND)
    def attach(self, name: str, kind: str) -> None:
        if name not in self.collections:
            self.db.execute(
                f"SELECT pgmeaning.attach(%s, collection => %s, {KINDS[kind]})".encode(), (self.table, name)
            )
            self.collections[name] = kind

    @precondition(lambda self: self.collections)
    @rule(place=PLACES, keep=st.booleans(), again=st.booleans())
    def detach(self, place: int, keep: bool, again: bool) -> None:
        name = self.at(place)
        self.db.execute("SELECT pgmeaning.detach(%s, keep_vectors => %s)", (name, keep))
        kind = self.collections.pop(name)
        self.paused.discard(name)
        if again and self.is_healthy:
            self.attach(name, kind)

    @precondition(lambda self: self.collections)
    @rule(place=PLACES)
    def pause(self, place: int) -> None:
        if self.call("pause(%s)", self.at(place)):
            self.paused.add(self.at(place))

    @precondition(lambda self: self.paused)
    @rule(place=PLACES)
    def resume(self, place: int) -> None:
        if self.call("resume(%s)", self.at(place)):
            self.paused.discard(self.at(place))

    @precondition(lambda self: self.collections)
    @rule(place=PLACES, new=NAMES)
    def rename_collection(self, place: int, new: str) -> None:
        name = self.at(place)
        if new not in self.collections and self.call("rename_collection(%s, %s)", name, new):
            self.collections[new] = self.collections.pop(name)
            if name in self.paused:
                self.paused = self.paused - {name} | {new}

    @precondition(lambda self: self.collections)
    @rule(place=PLACES)
    def set_default(self, place: int) -> None:
        self.call("set_default_collection(%s)", self.at(place))

    @precondition(lambda self: self.collections)
    @rule(place=PLACES)
    def refresh(self, place: int) -> None:
        self.call("refresh(%s)", self.at(place))

    # ------------------------------------------------------------ Sidecars

    @precondition(lambda self: self.deaths < DEATHS and self.table == self.seen_table and self.is_healthy)
    @rule(fold=st.booleans(), rows=st.integers(1, 10))
    def a_sidecar_dies(self, fold: bool, rows: int) -> None:
        sidecar = uuid4()
        queue = Queue(self.db, sidecar, QUICK)
        if fold:
            queue.fold()
        known = [t for t in targets(self.db) if t.workable]
        queue.claim(MODEL, [t.collection_id for t in known], rows)
        for target in known:
            if target.scanning:
                scan_page(
                    self.db, Source(self.db), target, rows=rows, claims=rows // 2, sidecar=sidecar, lease=QUICK.lease
                )
        # Its lease has run out.
        self.db.execute("UPDATE pgmeaning.queue SET visible_at = now() WHERE claimed_by = %s", (sidecar,))
        self.deaths += 1

    @precondition(lambda self: self.is_healthy)
    @rule(retry=st.booleans())
    def a_model_fails(self, retry: bool) -> None:
        def fail(texts: list[str], vectors: Any) -> Any:
            raise ValueError("cannot stand anything")

        self.run_sidecar(Watched(fail).load)
        for name in self.collections if retry else ():
            self.call("retry(%s)", name)

    def run_sidecar(self, load: Callable[[Model], Embedder] = load_embedder) -> int:
        sidecar = Sidecar(self.dsn, QUICK, load=load)
        overdue = threading.Event()
        watch = threading.Timer(DRAIN_SECONDS, lambda: (overdue.set(), sidecar.stop()))  # type: ignore[func-returns-value]
        watch.start()
        status = sidecar.run(drain=True)
        watch.cancel()
        watch.join()
        assert not overdue.is_set(), self.db.execute("SELECT * FROM pgmeaning.status").fetchall()
        self.deaths, self.adopted = 0, self.exists and self.names["body"] == "body"
        self.seen_table, self.seen_key_type = self.table if self.exists else self.seen_table, self.key_type
        return status

    def drain(self) -> None:
        if self.unseen and self.adopted:  # else a scan comes anyway
            for place in range(len(self.collections)):
                self.refresh(place)
            self.unseen = False
        for name in self.collections:
            self.call("retry(%s)", name)
        status = self.run_sidecar()
        if self.is_healthy:
            assert self.wrong() == []
            assert status == 0

    @precondition(lambda self: self.is_healthy)
    @rule()
    def drain_while_the_table_is_locked(self) -> None:
        with psycopg.connect(self.dsn) as other:
            other.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.Identifier(self.table)))
            release = threading.Timer(0.2, other.rollback)
            release.start()
            self.drain()
            release.join()

    def wrong(self) -> list[str]:
        """What is not as it must be after a drain."""
        found = [] if self.paused else left_over(self.db)
        for name in self.collections.keys() - self.paused:
            kind = self.collections[name]
            found += vectors_differ(self.db, name, kind, self.table) + not_ready(self.db, name)
            found += misses(self.db, name, kind, self.table)
            if self.db.execute("SELECT to_regclass(%s) IS NULL", (f"{name}_embedding",)).fetchone() == (True,):
                found.append(f"{name}: no view")
        return found

    @invariant()
    def drain_now_and_then(self) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            self.drain()

    @invariant()
    def no_search_finds_a_row_that_is_gone(self) -> None:
        if self.is_healthy:
            assert [ghost for name in self.known() for ghost in ghosts(self.db, name, self.table)] == []

    def known(self) -> list[str]:
        """The collections whose table is there, as far as the registry knows."""
        query = "SELECT c.name FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source ORDER BY c.name"
        return [name for (name,) in self.db.execute(query).fetchall()]


def test_whatever_happens_in_a_collections_life_a_drain_sets_everything_right(server_dsn: str, template: str) -> None:
    class OfThisServer(Life):
        pass

    OfThisServer.server_dsn, OfThisServer.template = server_dsn, template
    run_state_machine_as_test(
        OfThisServer,
        settings=settings(
            max_examples=MANY or 6, stateful_step_count=STEPS, derandomize=not MANY, deadline=None, database=None,
            phases=[Phase.generate, Phase.shrink] if MANY else [Phase.generate],
            suppress_health_check=list(HealthCheck), print_blob=False,
        ),
    )  # fmt: skip
