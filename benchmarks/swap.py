"""Changing the model while people write: our swap beside vecshift 0.4, on the same rows, with the same endpoint.

    python -m benchmarks.swap [--rows 3000] [--vecshift PROGRAM]

It makes a virtual environment in a temporary folder and installs vecshift there, unless PROGRAM is given. Both tools
ask one OpenAI-compatible endpoint, a process of this script's, 64 texts a request and four requests at once. It answers
vectors of 384 numbers that follow from the model's name and the text; so every vector in the database can be told to be
right, stale, or another model's.

What differs: vecshift adds a column to the table and fills it, so a vector is an UPDATE of the user's row; it is a
program that runs, and ends, and seconds are those that it reports. Ours has a table of its own, and a sidecar that
already runs; seconds are from swap_start() until all vectors are there. No index is built by either. After a cut-over
vecshift leaves new vectors to the application, which here, as a user may, only writes texts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

import pgmeaning
from benchmarks import bench
from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Model

REQUIREMENT = "vecshift==0.4.*"
SMALL = 600  # rows of the cases (a) to (k)
OLD, NEW, OTHER = "old", "new", "other"
WORSE = "worse"  # gives another vector whenever it is asked, so that nothing is found
SLOW_SECONDS = 1.0
Connection = psycopg.Connection[Any]


def main() -> int:
    """Print the tables; 1 if vecshift cannot be had."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=3000)
    arguments.add_argument("--vecshift", help="the program, where it is installed already")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="pgmeaning-swap-") as folder:
        program = options.vecshift or install(Path(folder) / "venv")
        if program is None:
            return 1
        with endpoint() as url, bench.database() as dsn:
            ours = Ours(dsn, url)
            tools: list[Tool] = [ours, Vecshift(dsn, url, program, Path(folder))]
            with ours.running():
                measure(tools, options.rows)
                tell(tools)
    return 0


def install(folder: Path) -> str | None:
    """vecshift's program in a virtual environment of its own; None, and a word on stderr, where that fails."""
    print(f"installing {REQUIREMENT} into {folder}", file=sys.stderr)
    venv.create(folder, with_pip=True)
    done = subprocess.run([folder / "bin" / "pip", "install", "-q", REQUIREMENT], capture_output=True, text=True)
    if done.returncode:
        print(f"{REQUIREMENT} is missing, and pip cannot install it:\n{done.stderr[-500:]}", file=sys.stderr)
        return None
    return str(folder / "bin" / "vecshift")


# ---------------------------------------------------------------- The endpoint


def vectors_of(model: str, texts: list[str]) -> Vectors:
    """What the endpoint answers."""
    return load_embedder("synthetic-384").embed_documents([f"{model}: {text}" for text in texts])


class Handler(BaseHTTPRequestHandler):
    """/v1/embeddings; /control sets how many texts are answered before the key is refused, and tells the longest."""

    protocol_version = "HTTP/1.1"
    left = float("inf")
    longest = 0

    def do_POST(self) -> None:
        """Answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            told = {"longest": Handler.longest}
            Handler.left, Handler.longest = body["left"] or float("inf"), 0
            return self._answer(200, told)
        texts = body["input"]
        if Handler.left <= 0:
            return self._answer(401, {"error": {"message": "invalid key"}})
        Handler.left -= sum(text.startswith("body") for text in texts)  # not what a probe asks
        Handler.longest = max(Handler.longest, *map(len, texts))
        if any("SLOW" in text for text in texts):
            time.sleep(SLOW_SECONDS)
        model = body["model"] + (str(time.time_ns()) if body["model"] == WORSE else "")
        data = [{"index": i, "embedding": v} for i, v in enumerate(vectors_of(model, texts).tolist())]
        return self._answer(200, {"data": data, "usage": {"prompt_tokens": len(texts)}})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def _serve(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def endpoint() -> Iterator[str]:
    """Run it in a process of its own; yields its address."""
    context = multiprocessing.get_context("spawn")
    port: Any = context.Queue()
    process = context.Process(target=_serve, args=(port,), daemon=True)
    process.start()
    yield f"http://127.0.0.1:{port.get(timeout=60)}"
    process.terminate()


# ---------------------------------------------------------------- The two tools


class Tool:
    """What both are asked to do."""

    name = ""
    beside_writers = ""  # how the fill ended that went on beside writers

    def __init__(self, dsn: str, url: str) -> None:
        self.dsn, self.url = dsn, url
        self.db: Connection = psycopg.connect(dsn, autocommit=True)

    def control(self, left: int | None = None) -> int:
        """Have the endpoint refuse the key after so many texts, or never; returns the longest text that it got."""
        request = urllib.request.Request(f"{self.url}/control", json.dumps({"left": left}).encode())
        with urllib.request.urlopen(request) as answer:
            return int(json.load(answer)["longest"])

    def table(self, rows: int) -> None:
        """A new table docs, with vectors of the old model."""
        self.control()
        self.db.execute("SELECT pgmeaning.detach(collection) FROM pgmeaning.status WHERE role = 'active'")
        self.db.execute("DROP TABLE IF EXISTS docs CASCADE")
        self.db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
        self.db.execute("INSERT INTO docs SELECT i, 't', 'body ' || i FROM generate_series(1, %s) AS i", (rows,))
        self.attach()
        self.db.execute("VACUUM ANALYZE docs")

    def one(self, query: str, *arguments: object) -> Any:
        row = self.db.execute(query.encode(), arguments or None).fetchone()
        return None if row is None else row[0]

    def live(self) -> dict[int, Vectors]:
        """The vectors that searches see, by key."""
        raise NotImplementedError

    def stale(self, model: str = NEW) -> int:
        """Rows whose vector that searches see is not the model's of the text as it is now."""
        texts = dict(self.db.execute("SELECT id, body FROM docs").fetchall())
        live = self.live()
        wanted = vectors_of(model, list(texts.values()))
        return sum(key not in live or not np.allclose(live[key], wanted[i], atol=1e-4) for i, key in enumerate(texts))

    attach: Callable[[], None]
    fill: Callable[..., str]  # and what it said, in short
    seconds: Callable[[], float]  # of the last fill
    activate: Callable[..., str]
    rollback: Callable[[], None]
    settle: Callable[[], None]  # what a user may expect to have happened a moment after the last write


def numbers(text: str) -> Vectors:
    return np.array(json.loads(text), np.float32)


class Ours(Tool):
    """pgmeaning."""

    name = "pgmeaning"

    @contextmanager
    def running(self) -> Iterator[None]:
        """With a sidecar."""
        with pgmeaning.connect(self.dsn) as client:
            for name in (OLD, NEW, OTHER):
                options = {"url": self.url, "served_name": name, "batch_rows": 64, "concurrency": 4, "retries": 0}
                client.add_model(Model(name, "embedder", "http", location="m", dimensions=384, options=options))
        with bench.sidecar(self.dsn):
            yield

    def attach(self) -> None:
        self.db.execute("SELECT pgmeaning.attach('docs', '{body}', model => 'old')")
        self.db.execute("CALL pgmeaning.wait_for('docs')")

    def new_vectors(self) -> str:
        return str(self.one("SELECT t.vectors::text FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c "
                            "ON c.id = t.collection_id WHERE c.name = 'docs@2'"))  # fmt: skip

    def swap(self, what: str = "state") -> Any:
        return self.one(f"SELECT {what} FROM pgmeaning.swaps ORDER BY swap DESC LIMIT 1")

    def fill(self, until: float | None = None, model: str = NEW, ends: tuple[str, ...] = ()) -> str:
        started = time.perf_counter()
        try:
            self.db.execute("SELECT pgmeaning.swap_start('docs', model => %s, until => %s)", (model, until))
        except psycopg.Error as error:
            return f"refused ({error.sqlstate})"
        wanted = ("ready", "closed", "held", *ends)
        new, rows = self.new_vectors(), self.one("SELECT count(*) FROM docs")
        bench.wait_until(lambda: self.one(f"SELECT count(*) FROM {new}") >= rows or self.swap() in wanted)
        self.took = time.perf_counter() - started
        bench.wait_until(lambda: self.swap() in wanted)
        return str(self.swap("concat(state, ': ' || problem)")).split(" (put")[0]

    def seconds(self) -> float:
        return self.took

    def activate(self, patience: str = "1 minute") -> str:
        try:
            self.db.execute("SELECT pgmeaning.swap_activate('docs', patience => %s)", (patience,))
        except psycopg.Error as error:
            return f"refused ({error.sqlstate})"
        return "done"

    def rollback(self) -> None:
        self.db.execute("SELECT pgmeaning.swap_rollback('docs')")

    def settle(self) -> None:
        self.db.execute("CALL pgmeaning.wait_for('docs')")
        other = self.one("SELECT name FROM pgmeaning.collection WHERE role <> 'active'")
        self.db.execute("CALL pgmeaning.wait_for(%s)", (other,)) if other else None

    def live(self) -> dict[int, Vectors]:
        rows = self.db.execute("SELECT id, embedding::text FROM docs_embedding").fetchall()
        return {key: numbers(text) for key, text in rows}


class Vecshift(Tool):
    """vecshift, by its command line."""

    name = "vecshift"

    def __init__(self, dsn: str, url: str, program: str, folder: Path) -> None:
        super().__init__(dsn, url)
        self.program, self.folder, self.number = program, folder, 0
        self.status = 0
        self.said: dict[str, Any] = {}

    def attach(self) -> None:
        self.number += 1
        (self.folder / str(self.number)).mkdir()
        self.db.execute("ALTER TABLE docs ADD embedding vector(384)")
        texts = dict(self.db.execute("SELECT id, body FROM docs").fetchall())
        made = vectors_of(OLD, list(texts.values()))
        with self.db.transaction():
            self.db.cursor().executemany(
                "UPDATE docs SET embedding = %s::text::vector WHERE id = %s",
                [(str(vector.tolist()), key) for key, vector in zip(texts, made, strict=True)],
            )

    def run(self, *arguments: str) -> str:
        """Run it with this table's job; keeps its exit status, and the last JSON object that it printed."""
        done = subprocess.run(
            [self.program, "--no-env-file", *arguments], cwd=self.folder / str(self.number), text=True,
            env={**os.environ, "VECSHIFT_DSN": self.dsn}, capture_output=True,
        )  # fmt: skip
        self.status, self.said = done.returncode, {}
        for line in done.stdout.splitlines():
            if line.startswith("{") and line.endswith("}"):
                self.said = json.loads(line)
        return done.stdout + done.stderr

    def job(self, model: str) -> None:
        (self.folder / str(self.number) / "vecshift.yaml").write_text(json.dumps({
            "version": 1, "name": "docs",
            "source": {"table": "docs", "text_column": "body", "vector_column": "embedding",
                       "model": f"compat/{OLD},url={self.url}/v1,dims=384,price=0"},
            "target": {"column": "embedding_v2", "index": "none"},
            "model": f"compat/{model},url={self.url}/v1,dims=384,price=0",
        }))  # fmt: skip

    def fill(self, until: float | None = None, model: str = NEW, ends: tuple[str, ...] = ()) -> str:
        self.job(model)
        said = self.run("apply", "--yes", "--json", *(() if until is None else ("--until", str(int(until * 100)))))
        why = "" if "status" in self.said else f" ({' '.join(said.split())[-150:]})"
        return f"{self.said.get('status', 'failed')}, exit {self.status}{why}"

    def seconds(self) -> float:
        return float(self.said["seconds"])

    def activate(self, patience: str = "") -> str:
        self.run("cutover", "--yes", "--json")
        return "done" if self.status == 0 else f"refused, exit {self.status}"

    def rollback(self) -> None:
        self.run("rollback", "--yes", "--json")

    def settle(self) -> None:
        pass

    def live(self) -> dict[int, Vectors]:
        rows = self.db.execute("SELECT id, embedding::text FROM docs WHERE embedding IS NOT NULL").fetchall()
        return {key: numbers(text) for key, text in rows}


# ---------------------------------------------------------------- Users meanwhile


def _write(dsn: str, rows: int, column: str, many: int, pause: float, stop: Any, told: Any) -> None:
    """Transactions of so many rows in reversed order of the key; tells (when, seconds) of each, and deadlocks."""
    with psycopg.connect(dsn, autocommit=True) as db:
        done: list[tuple[float, float]] = []
        random, deadlocks = np.random.default_rng(os.getpid()), 0
        told.put("ready")
        while not stop.is_set():
            started = time.time()
            first = int(random.integers(2, max(3, rows - many)))
            try:
                with db.transaction():
                    for key in range(first + many - 1, first - 1, -1):
                        db.execute(
                            f"UPDATE docs SET {column} = %s WHERE id = %s".encode(), (f"body {key} {started}", key)
                        )
                done.append((time.time(), time.time() - started))
            except psycopg.errors.DeadlockDetected:
                deadlocks += 1
            stop.wait(pause)
    told.put((done, deadlocks))


class Writers:
    """Processes that write until `finish`; what they told is kept."""

    def __init__(
        self, dsn: str, rows: int, column: str, *, processes: int = 2, many: int = 20, pause: float = 0.0
    ) -> None:  # fmt: skip
        context = multiprocessing.get_context("spawn")
        self._stop, self._told = context.Event(), context.Queue()
        self._processes = [
            context.Process(target=_write, args=(dsn, rows, column, many, pause, self._stop, self._told), daemon=True)
            for _ in range(processes)
        ]
        for process in self._processes:
            process.start()
        for _ in self._processes:
            self._told.get(timeout=120)
        self.began = time.time()

    def finish(self) -> tuple[float, float, int]:
        """(transactions a second, the longest in seconds, deadlocks) since all of them wrote."""
        ended = max(time.time(), self.began + 1)
        time.sleep(max(0.1, ended - time.time()))
        self._stop.set()
        told = [self._told.get(timeout=120) for _ in self._processes]
        done = [each for some, _ in told for each in some if each[0] >= self.began]
        within = [seconds for when, seconds in done if when <= ended]
        return len(within) / (ended - self.began), max(s for _, s in done), sum(d for _, d in told)


@contextmanager
def repeating(action: Callable[[], object], pause: float) -> Iterator[None]:
    """In a thread, again and again."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(pause):
            action()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ---------------------------------------------------------------- Numbers


def measure(tools: list[Tool], rows: int) -> None:
    """Rows a second, transactions beside, stalls, locks."""
    found: dict[str, list[float]] = {}
    fills: dict[str, list[float]] = {tool.name: [] for tool in tools}
    for tool in tools * 3:
        tool.table(rows)
        tool.fill()
        fills[tool.name].append(rows / tool.seconds())
    for tool in tools:
        numbers_of = found[tool.name] = [statistics.median(fills[tool.name])]
        numbers_of.append(refused_locks(tool, rows))
        numbers_of += beside_writers(tool, rows)
        numbers_of.append(stalled_by_cut_over(tool))
    heads = ("fill, rows/s", "row locks refused meanwhile, % of probes", "writers' transactions/s, no fill",
             "the same during the fill", "kept", "longest of them, s", "deadlocks",
             "longest write during cut-over with a slow model, s")  # fmt: skip
    lines: list[list[object]] = []
    for head, ours, theirs in zip(heads, *(found[tool.name] for tool in tools), strict=True):
        lines.append([head, ours, theirs, ours / theirs if theirs else ""])
    bench.print_table(f"{rows:,} rows, 384 dimensions", ["", *(tool.name for tool in tools), "ratio"], lines)


def refused_locks(tool: Tool, rows: int) -> float:
    """How many of many attempts to lock 50 rows, while a swap fills, were refused: per cent."""
    tool.table(rows)
    tried = [0, 0]
    with psycopg.connect(tool.dsn, autocommit=True) as db:

        def lock() -> None:
            first = int(np.random.default_rng().integers(1, rows - 50))
            try:
                db.execute("SELECT FROM docs WHERE id BETWEEN %s AND %s FOR SHARE NOWAIT", (first, first + 49))
            except psycopg.errors.LockNotAvailable:
                tried[1] += 1
            tried[0] += 1

        with repeating(lock, 0.005):
            tool.fill()
    return 100 * tried[1] / tried[0]


def beside_writers(tool: Tool, rows: int) -> list[float]:
    """Two writers of another column than the text: transactions a second without a fill, and with one; and so on."""
    tool.table(rows)
    writers = Writers(tool.dsn, rows, "title")
    time.sleep(3)
    alone, _, _ = writers.finish()
    tool.settle()
    tool.table(rows)
    writers = Writers(tool.dsn, rows, "title")
    tool.beside_writers = tool.fill()
    beside, longest, deadlocks = writers.finish()
    return [alone, beside, beside / alone, longest, deadlocks]


def stalled_by_cut_over(tool: Tool) -> float:
    """The longest write while the cut-over has a row before it whose text the model is slow with."""
    tool.table(SMALL)
    tool.fill()
    writers = Writers(tool.dsn, SMALL, "body", processes=1, many=1, pause=0.1)
    with psycopg.connect(tool.dsn, autocommit=True) as db:
        with repeating(lambda: db.execute("UPDATE docs SET body = 'SLOW ' || random() WHERE id = 1"), 0.3):
            tool.activate()
        return writers.finish()[1]


# ---------------------------------------------------------------- (a) to (k)


def model_edited(tool: Tool) -> str:
    tool.table(SMALL)
    tool.fill(until=0.5)
    tool.fill(model=OTHER)
    if isinstance(tool, Ours):
        try:
            tool.db.execute("UPDATE pgmeaning.model SET location = 'x' WHERE name = 'new'")
        except psycopg.Error as error:
            return f"a second model: PM022; editing the model: {error.sqlstate}"
        return "allowed"
    said = f"{tool.fill(model=OTHER)}; cut-over {tool.activate()}"
    return f"{SMALL - tool.stale(NEW)} + {SMALL - tool.stale(OTHER)} of two models; {said}"


def key_refused(tool: Tool) -> str:
    tool.table(SMALL)
    tool.control(left=300)
    if isinstance(tool, Vecshift):
        said = tool.fill()
        state = next((tool.folder / str(tool.number)).glob(".vecshift/*.json"))
        marked = len(json.loads(state.read_text())["failed"])
        tool.control()
        tool.fill()
        return f"{said}, {marked} marked; then {tool.one('SELECT count(embedding_v2) FROM docs')} of {SMALL} filled"
    assert isinstance(tool, Ours)
    said = tool.fill(ends=("waiting",))
    marked = tool.one("SELECT count(*) FROM pgmeaning.failures")
    tool.control()
    bench.wait_until(lambda: tool.swap() == "ready")
    filled = tool.one(f"SELECT count(*) FROM {tool.new_vectors()}")
    return f"{said}, {marked} marked; then {filled} of {SMALL} filled, by itself"


def after_cut_over(tool: Tool) -> str:
    tool.table(SMALL)
    tool.fill()
    tool.activate()
    tool.db.execute("UPDATE docs SET body = 'body changed ' || id WHERE id <= 20")
    tool.settle()
    live = tool.stale()
    tool.rollback()
    tool.settle()
    return f"{live} stale; after roll-back {tool.stale(OLD)}"


def roll_back(tool: Tool) -> str:
    tool.table(SMALL)
    tool.fill()
    tool.activate()
    tool.db.execute("INSERT INTO docs SELECT i, 't', 'body ' || i FROM generate_series(10001, 10020) AS i")
    tool.settle()
    tool.rollback()
    return f"{tool.stale(OLD)} of 20 lack a vector"


def other_trigger(tool: Tool) -> str:
    tool.table(SMALL)
    tool.db.execute(
        "CREATE OR REPLACE FUNCTION renamed() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.body := 'body of ' || NEW.title; RETURN NEW; END $$;"
        "CREATE TRIGGER zzz BEFORE UPDATE OF title ON docs FOR EACH ROW EXECUTE FUNCTION renamed()"
    )
    tool.fill()
    tool.db.execute("UPDATE docs SET title = 'title ' || id WHERE id <= 20")
    tool.settle()
    tool.fill() if isinstance(tool, Vecshift) else None
    return f"{tool.activate()}, {tool.stale()} of 20 stale"


def users_triggers(tool: Tool) -> str:
    tool.table(SMALL)
    tool.db.execute(
        "ALTER TABLE docs ADD updated_at timestamptz; CREATE OR REPLACE FUNCTION stamped() RETURNS trigger "
        "LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;"
        "CREATE TRIGGER stamp BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION stamped()"
    )
    tool.fill()
    return f"fired {tool.one('SELECT count(updated_at) FROM docs')} times"


def long_text(tool: Tool) -> str:
    tool.table(SMALL)
    tool.db.execute("UPDATE docs SET body = 'body ' || repeat('long text ', 3000) WHERE id = 1")
    tool.settle()
    tool.control()
    tool.fill()
    return f"{tool.control():,} of 30,005 characters sent"


def no_go(tool: Tool) -> str:
    tool.table(SMALL)
    tool.fill(model=WORSE if isinstance(tool, Vecshift) else NEW)
    if isinstance(tool, Vecshift):
        folder = tool.folder / str(tool.number)
        (folder / "queries.jsonl").write_text(
            "\n".join(json.dumps({"query": f"body {i}", "relevant": [str(i)]}) for i in range(1, 101))
        )
        said = tool.run("eval", "--queries", "queries.jsonl", "--yes", "--json", "--neighbours", "0")
        verdict = "NO-GO" if "no_go" in said else f"exit {tool.status}"
        return f"{verdict}, then cut-over {tool.activate()}"
    tool.db.execute("SELECT pgmeaning.record_evaluation('docs@2', 'docs', 100, 'nDCG@10', 0.5, 0.8, -0.4, -0.2)")
    return f"measured worse, then activation {tool.activate()}"


def constant_writes(tool: Tool) -> str:
    tool.table(SMALL)
    writers = Writers(tool.dsn, SMALL, "body", processes=2, many=2, pause=0.005)
    said = tool.fill()
    cut = tool.activate()
    per_second, _, _ = writers.finish()
    tool.settle()
    return f"at {2 * per_second:.0f} rows/s: {said}; cut-over {cut}"


CASES = {
    "(a) the model edited between two fills": model_edited,
    "(b) a 401 after 300 rows": key_refused,
    "(d) 20 texts changed after cut-over": after_cut_over,
    "(e) 20 rows added after cut-over, then roll-back": roll_back,
    "(f) 20 texts changed by a trigger of the user's": other_trigger,
    "(g) the user's trigger on UPDATE": users_triggers,
    "(i) a text of 30,000 characters": long_text,
    "(j) a verdict against it": no_go,
    "(k) constant writes": constant_writes,
}


def tell(tools: list[Tool]) -> None:
    """What each did; (c) and (h) are in the table of numbers."""
    lines = [[what, *(case(tool) for tool in tools)] for what, case in CASES.items()]
    print()
    for what, *said in lines:
        print(what)
        for tool, words in zip(tools, said, strict=True):
            print(f"    {tool.name:10} {words}")
    print("(c) deadlocks and row locks, and (h) stalls, are above; the fill beside writers ended")
    for tool in tools:
        print(f"    {tool.name:10} {tool.beside_writers}")


if __name__ == "__main__":
    sys.exit(main())
