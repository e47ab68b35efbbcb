"""The command: a server, the table, the collection, the vectors, a first search, and how to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pgmeaning.client.client import Client
from pgmeaning.client.connecting import connect
from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.demo.tour import (
    EMBEDDER,
    RERANKER,
    Running,
    check_small_model,
    ignore_signals,
    interruptible,
    interruption,
    running_sidecar,
)
from pgmeaning.embedded_server.server import EmbeddedServer
from pgmeaning.errors import InputError
from pgmeaning.tables import table as shown_table
from pgmeaning.tryout.files import SUFFIXES, names, opened
from pgmeaning.tryout.guess import embedded, template
from pgmeaning.tryout.load import Loaded, load

WIDTH, LONG_TEXT = 100, 1500
CHUNKING = {"method": "sentences", "size": 200}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller wants other than guessed; None: as guessed."""

    table: str | None = None
    columns: Sequence[str] | None = None
    template: str | None = None
    model: str | None = None
    query: str | None = None
    data_dir: Path | str | None = None
    port: int | None = None


def run(source: str, wishes: Wishes, go_on: Callable[[str], None] | None = None) -> None:
    """Make the file's rows searchable. `go_on` is called with the DSN while the sidecar still runs.

    Raises InputError for a file that cannot be read, ModelUnavailable, ServerError, and what the database raises.
    """
    path = _file(source)
    rows = opened(path)
    if wishes.model is None:
        check_small_model()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    with interruptible(), ExitStack() as cleanup:
        server = EmbeddedServer(wishes.data_dir, wishes.port)
        cleanup.push(server.__exit__)
        try:
            dsn = server.start()
            migrate.upgrade(dsn)
            client = cleanup.enter_context(connect(dsn))
            tryout = Tryout(console, client, wishes)
            for note in rows.notes:
                tryout.say(note)
            loaded = load(client.connection, rows, wishes.table or names([path.stem.lower()])[0])
            collection, model = tryout.attach(loaded)
            running = cleanup.enter_context(running_sidecar(dsn, [model, RERANKER] if model == EMBEDDER else [model]))
            tryout.embed(collection, running)
            tryout.search(collection, loaded)
            tryout.say_how_to_go_on(collection, server)
            if go_on is not None:
                go_on(dsn)
        finally:
            ignore_signals()


def _file(source: str) -> Path:
    if source.startswith(("postgres://", "postgresql://")):
        raise InputError(
            "try takes a file; a database's own tables are attached where they are",
            hint="pgmeaning --dsn ... migrate, then pgmeaning --dsn ... attach TABLE --column COLUMN",
        )
    path = Path(source).expanduser()
    if path.is_dir():
        raise InputError(
            f"{source} is a folder; try takes a file ({', '.join(SUFFIXES)})",
            hint="images need a model that takes them: see the page on images and video",
        )
    return path


class Tryout:
    """The steps, on one console."""

    def __init__(self, console: Console, client: Client, wishes: Wishes) -> None:
        self._console = console
        self._client = client
        self._wishes = wishes

    def say(self, text: str) -> None:
        """Print a line."""
        interruption.check()
        self._console.print(text, markup=False, soft_wrap=True)

    def attach(self, loaded: Loaded) -> tuple[str, str]:
        """Say what the table is; attach it, unless an earlier run did. Returns the collection's name and its model."""
        types = ", ".join(f"{column.name} {column.type}" for column in loaded.columns)
        self.say(f"table {loaded.table}: {loaded.rows:,} rows, key {loaded.key}; {types}")
        self.say(f"-- {loaded.changed:,} rows new or changed, {loaded.removed:,} removed")
        name = loaded.table.replace('"', "")
        for row in self._client.status():
            if row["source"].replace('"', "") in (name, f"public.{name}"):
                self.say(f"-- attached by an earlier run, as collection {row['collection']}")
                return row["collection"], row["model"]
        return self._attach(loaded)

    def _attach(self, loaded: Loaded) -> tuple[str, str]:
        columns = list(self._wishes.columns or embedded(loaded.columns))
        if not columns and self._wishes.template is None:
            raise InputError("no column has text to search", hint="--column NAME says which, --template how")
        wanted = self._wishes.template or (None if self._wishes.columns else template(columns))
        model = self._wishes.model or EMBEDDER
        self._client.set_default_model(model)
        long = sum(column.length for column in loaded.columns if column.name in columns) > LONG_TEXT
        collection = self._client.attach(
            loaded.table, columns if wanted is None else None, wanted, chunking=CHUNKING if long else None
        )
        how = f"template {wanted!r}" if wanted else f"columns {', '.join(columns)}"
        self.say(f"collection {collection}: {how}{', long texts cut by sentences' if long else ''}, model {model}")
        self.say("-- guessed; --column or --template choose otherwise, after: pgmeaning detach " + collection)
        return collection, model

    def embed(self, collection: str, running: Running) -> None:
        """Until every row has its vector; a bar where there is a terminal, the sum everywhere."""
        started = time.monotonic()
        first = self._client.status(collection)[0]
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*bar, console=self._console, transient=True, disable=not self._console.is_terminal) as progress:
            task = progress.add_task("embedding", total=first["source_rows"])
            while (now := self._client.status(collection)[0])["state"] not in ("ready", "broken"):
                running.check()
                interruption.check()
                progress.update(task, completed=(now["source_rows"] or 0) - (now["owed"] or 0))
                time.sleep(0.2)
        if now["problem"]:
            raise InputError(f"collection {collection} is broken: {now['problem']}")
        self.say(f"-- {now['vectors']:,} vectors after {time.monotonic() - started:.0f} s, {now['failed']} rows failed")

    def search(self, collection: str, loaded: Loaded) -> None:
        """A first search: the caller's, or for a row of the table, so that something is found."""
        query = self._wishes.query or self._example(loaded)
        if query is None:
            return
        self.say(f'\npgmeaning search {collection} "{query}" -k 5\n')
        found = self._client.search(collection, query, 5, timeout=120)
        rows = [{"distance": hit.distance, **{name: _cut(value) for name, value in hit.row.items()}} for hit in found]
        if rows:
            self._console.print(shown_table(rows, rows[0], self._console.width))

    def _example(self, loaded: Loaded) -> str | None:
        columns = embedded(loaded.columns)
        found = self._client.connection.execute(sql.composed("tryout/example", {"table": loaded.table}))
        row = found.fetchone()
        place = [each.name for each in found.description or ()].index(columns[0]) if columns else None
        words = "" if row is None or place is None else str(row[place] or "")
        return " ".join(words.split()[:8]).replace('"', "") or None

    def say_how_to_go_on(self, collection: str, server: EmbeddedServer) -> None:
        """What to type next."""
        option = f" --data-dir {server.data_dir}"
        self.say("\n".join((
            "", "The data stays. To go on:", "",
            f"  export PGMEANING_DSN=$(pgmeaning server start{option})",
            "  pgmeaning sidecar &",
            f'  pgmeaning search {collection} "..." -k 5',
            f"  pgmeaning server psql{option}",
            f"  pgmeaning server stop{option}",
        )))  # fmt: skip


def _cut(value: object) -> object:
    return value[:57] + "…" if isinstance(value, str) and len(value) > 58 else value
