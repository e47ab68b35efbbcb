"""How much of a bare asynchronous client's throughput does the sidecar get out of an engine?

    python -m benchmarks.engines [--rows 20000] [--latency 0.25] [--concurrency 8] [--rounds 3]

A server in a process of its own answers each request after a fixed time, as an engine far from its limit does:
so what counts is whether all allowed requests are under way. First texts of 384 dimensions, then token ids of 4,096
(Qwen's tokenizer), then rows with an image. The client posts the same requests, ready made, with the same number of
inputs in each, and reads the vectors; the sidecar reads rows and writes vectors. Rows a second are those of the middle
of a run, from a tenth to nine tenths of its answers, as the server saw them. The figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import structlog

import pgmeaning
from benchmarks import bench
from pgmeaning.models.conversation import conversation
from pgmeaning.models.options import serving
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.token_ids import token_ids
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Model

IMAGE_ROWS = 40  # the fewer, as each request holds fewer


@dataclass(frozen=True, slots=True)
class Case:
    """Rows of a table, and how many inputs a request holds."""

    name: str
    model: Model
    column: str
    rows: Sequence[Any]
    together: int


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--latency", type=float, default=0.25)
    arguments.add_argument("--concurrency", type=int, default=8)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.serve:
        asyncio.run(serve(options.latency))
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with server(options.latency) as url, tempfile.TemporaryDirectory() as folder:
        rows = [
            line
            for case in cases(url, options.rows, options.concurrency, Path(folder))
            for line in compared(case, url, options.concurrency, options.rounds)
        ]
    title = f"{options.concurrency} requests at once, each answered after {options.latency:g} s"
    bench.print_table(title, ["", "rows/s", "requests at once", "ratio"], rows)


def cases(url: str, rows: int, concurrency: int, folder: Path) -> Iterator[Case]:
    """Texts, token ids, images."""
    from tests.conformance.tiny_qwen import tokenizer_file

    (folder / "tokenizer.json").write_text(tokenizer_file())
    options = {"url": url, "concurrency": concurrency}
    texts = [f"row number {number}, with a few words behind it" for number in range(rows)]
    plain = Model("plain", "embedder", "http", location="some/model", dimensions=384, max_tokens=512, options=options)
    yield Case("texts", plain, "body", texts, 32)
    qwen = builtin_model("Qwen3-VL-Embedding-8B")
    served = replace(qwen, name="served", backend="http", status="supported")
    with_ids = replace(served, options={**qwen.options, **options, "tokenizer": str(folder)})
    yield Case("token ids, 4,096 dimensions", with_ids, "body", texts, 96)
    pictures = [picture(number) for number in range(IMAGE_ROWS * concurrency)]
    yield Case("images", replace(with_ids, name="pictures"), "photo", pictures, 4)


def compared(case: Case, url: str, concurrency: int, rounds: int) -> Iterator[list[Any]]:
    """Rows for the table: the bare client, the sidecar."""
    bodies = list(requests(case))
    ways: list[Callable[[], object]] = [lambda: asyncio.run(bare(url, bodies, concurrency))]
    with bench.database() as dsn, pgmeaning.connect(dsn) as client:
        client.add_model(case.model)
        kind = "bytea" if case.column == "photo" else "text"
        client.connection.execute(f"CREATE TABLE docs (id int PRIMARY KEY, {case.column} {kind})".encode())
        with client.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO docs VALUES (%s, %s)", list(enumerate(case.rows)))
        ways.append(lambda: drain(client, dsn, case))
        found = [[measured(url, len(case.rows), way) for way in ways] for _ in range(rounds)]
    base = statistics.median(each[0][0] for each in found)
    for place, name in enumerate(("bare client", "sidecar, into the database")):
        rate = statistics.median(each[place][0] for each in found)
        yield [f"{case.name}: {name}", rate, max(each[place][1] for each in found), rate / base]


def measured(url: str, rows: int, work: Callable[[], object]) -> tuple[float, int]:
    """(rows a second, the most requests at once), as the server saw them."""
    httpx.get(f"{url}/reset")
    work()
    seen = httpx.get(f"{url}/seen").json()
    answers = np.array(seen["answers"])
    times = np.repeat(answers[:, 0], answers[:, 1].astype(int))[-rows:]  # before them come the model's probes
    first, last = times[len(times) // 10], times[len(times) * 9 // 10]
    between = ((times > first) & (times <= last)).sum()
    return float(between / (last - first)), seen["together"]


def drain(client: pgmeaning.Client, dsn: str, case: Case) -> None:
    """Attach, embed every row, and detach."""
    media: dict[str, Any] = {"image": "photo"} if case.column == "photo" else {}
    client.attach("docs", columns=[] if media else ["body"], model=case.model.name, **media)
    assert Sidecar(dsn, Settings(allow_superuser=True)).run(drain=True) == 0
    client.detach("docs")


def requests(case: Case) -> Iterator[bytes]:
    """Bodies as the sidecar sends them, ready made."""
    how: dict[str, Any] = {"model": str(case.model.location), "encoding_format": "base64"}
    tokens = token_ids(case.model, serving(case.model))
    for start in range(0, len(case.rows), case.together):
        rows = case.rows[start : start + case.together]
        chosen = [Document(None, (row,)) if case.column == "photo" else Document(row) for row in rows]
        body: dict[str, Any]
        if case.column == "photo":
            body = {"messages": [conversation(case.model, row, case.model.document_prompt) for row in chosen]}
        elif tokens:
            body = {"input": tokens.ids(chosen, case.model.document_prompt)}
        else:
            body = {"input": [row.text for row in chosen], "encoding_format": "float"}
        yield json.dumps({**how, **body}).encode()


async def bare(url: str, bodies: Sequence[bytes], concurrency: int) -> None:
    """Post them all, so many at once, and read the vectors."""
    turn = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=concurrency)) as client:

        async def post(body: bytes) -> None:
            async with turn:
                answer = await client.post(f"{url}/v1/embeddings", content=body)
            for item in answer.json()["data"]:
                vector = item["embedding"]
                np.frombuffer(base64.b64decode(vector), "<f4") if isinstance(vector, str) else np.asarray(vector)

        await asyncio.gather(*map(post, bodies))


def picture(number: int) -> bytes:
    """A PNG of 320 x 320."""
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 255, (10, 10, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).resize((320, 320)).save(buffer, "PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------- the server


@contextmanager
def server(latency: float) -> Iterator[str]:
    """A process that answers after that many seconds; gives its URL."""
    command = [sys.executable, "-m", "benchmarks.engines", "--serve", "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


class Seen:
    """What the server was asked, since it was told to begin."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.answers: list[tuple[float, int]] = []  # when, and of how many inputs


async def serve(latency: float) -> None:
    """Answer POST with vectors, GET with what was seen. The vectors are made once for each length."""
    seen = Seen()
    kept: dict[tuple[int, int, bool], bytes] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            headers = {}
            while (header := await reader.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            content = await reader.readexactly(int(headers.get("content-length", 0)))
            answer = await answered(line.decode(), content, seen, kept, latency)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
            await writer.drain()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 26)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await listening.serve_forever()


async def answered(
    line: str, content: bytes, seen: Seen, kept: dict[tuple[int, int, bool], bytes], latency: float
) -> bytes:
    """The answer to one request."""
    loop = asyncio.get_running_loop()
    if "/reset" in line:
        seen.__init__()  # type: ignore[misc]
        return b"{}"
    if "/seen" in line:
        return json.dumps({"answers": seen.answers, "together": seen.most}).encode()
    seen.now += 1
    seen.most = max(seen.most, seen.now)
    until = loop.time() + latency
    body = json.loads(content)
    several = body.get("messages", [])
    count = len(body["input"]) if "input" in body else len(several) if isinstance(several[0], list) else 1
    key = count, 384 if body["model"] == "some/model" else 4096, body["encoding_format"] == "base64"
    if key not in kept:
        kept[key] = _vectors(*key)
    await asyncio.sleep(max(until - loop.time(), 0))
    seen.now -= 1
    seen.answers.append((loop.time(), count))
    return kept[key]


def _vectors(count: int, dimensions: int, encoded: bool) -> bytes:
    vectors = np.random.default_rng(0).standard_normal((count, dimensions)).astype("<f4")
    shown = [base64.b64encode(each.tobytes()).decode() for each in vectors] if encoded else vectors.tolist()
    return json.dumps({"data": [{"index": place, "embedding": each} for place, each in enumerate(shown)]}).encode()


if __name__ == "__main__":
    main()
