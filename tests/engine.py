"""A serving engine for tests: a real HTTP server on a free port of 127.0.0.1, in a thread of this process.

It keeps what it was asked, answers as vLLM would with vectors and scores of the model that it is given, and first
plays back what a test puts into its `script`.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document
from tests.probes import TEXTS


@dataclass
class Request:
    """What the engine was asked."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    port: int  # of the client


@dataclass
class Answer:
    """What it answers; `missing` is how many bytes it promises and does not send."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0


Embed = Callable[[Sequence[Document]], Vectors]
Judge = Callable[[Document, Sequence[Document]], Vectors]


class Engine:
    """The server, while `serving()` runs it."""

    def __init__(self, embed: Embed | None = None, judge: Judge | None = None) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.knows_probes = True
        self.probes: list[Request] = []  # what only asks whether the model is still the same; no part of the script
        self.script: deque[Answer | Callable[[Request], Answer]] = deque()
        self.refused: set[str] = set()  # inputs that it answers with 400
        self.names: list[str] | None = None  # what /v1/models lists; None: it has no such list
        self.longest = sys.maxsize  # ids, or characters of texts; it refuses what is longer
        self.takes_several = True  # conversations in a request
        self.embed_ids: Callable[[Sequence[Sequence[int]]], Vectors] | None = None
        self.judge_ids: Callable[[Sequence[Sequence[int]]], Vectors] | None = None
        self.stalled = threading.Event()
        self._embed = embed
        self._judge = judge
        self._lock = threading.Lock()

    @property
    def last(self) -> dict[str, Any]:
        """The body that came last."""
        return self.requests[-1].body

    def answer(self, request: Request) -> Answer:
        """What the test's script says next, or what the model does."""
        if self.knows_probes and _is_probe(request.body):
            with self._lock:
                self.probes.append(request)
                return self._computed(request)
        with self._lock:
            self.requests.append(request)
            planned = self.script.popleft() if self.script else None
        if planned is not None:
            return planned if isinstance(planned, Answer) else planned(request)
        with self._lock:  # the model takes one call at a time
            return self._computed(request)

    def stall(self, request: Request) -> Answer:
        """For the script: answers when the test is over."""
        self.stalled.wait(60)
        return Answer()

    def _computed(self, request: Request) -> Answer:
        body = request.body
        inputs = inputs_of(body)
        if any(len(each) > self.longest for each in inputs):
            return Answer(400, {"error": {"message": "the prompt is longer than the maximum model length"}})
        if any(isinstance(each, str) and each in self.refused for each in inputs):
            return Answer(400, {"error": {"message": "this input cannot be embedded"}})
        if len(conversations(body)) > 1 and not self.takes_several:
            return Answer(400, {"error": {"message": "messages: value is not a valid list"}})
        if "input" in body and not isinstance(inputs[0], str):
            return Answer(body=self._of_ids(request.path, inputs))
        if "input" in body or "messages" in body:
            assert self._embed is not None
            vectors = self._embed([Document(text) for text in inputs])
            return Answer(body=embeddings(_encoded(vectors, body)))
        return Answer(body=self._scores(body))

    def _of_ids(self, path: str, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        if path == "/classify":
            assert self.judge_ids is not None
            scores = self.judge_ids(ids).tolist()
            return {"data": [{"index": place, "probs": [score]} for place, score in enumerate(scores)]}
        assert self.embed_ids is not None
        return embeddings(_encoded(self.embed_ids(ids), {"encoding_format": "base64"}))

    def _scores(self, body: dict[str, Any]) -> Any:
        assert self._judge is not None
        query = body.get("query", body.get("text_1"))
        texts = body.get("documents") or body.get("texts") or body["text_2"]
        scores = self._judge(Document(query), [Document(text) for text in texts]).tolist()
        named = "score" if "text_2" in body or "texts" in body else "relevance_score"
        # The best first, as engines do.
        ranked = sorted(
            ({"index": place, named: score} for place, score in enumerate(scores)), key=lambda item: -float(item[named])
        )
        return ranked if "texts" in body else {"data" if "text_2" in body else "results": ranked}


def _is_probe(body: Mapping[str, Any]) -> bool:
    if "messages" in body:
        return all(each[1]["content"][-1].get("text") in TEXTS for each in conversations(body))
    return "input" in body and all(isinstance(each, str) and each in TEXTS for each in body["input"])


def conversations(body: Mapping[str, Any]) -> list[Any]:
    """Those of a request: one, or several."""
    messages = body.get("messages", [])
    return messages if not messages or isinstance(messages[0], list) else [messages]


def inputs_of(body: Mapping[str, Any]) -> list[Any]:
    """All texts that a request wants something of, or all lists of ids."""
    if "messages" in body:
        return [said(messages) for messages in conversations(body)]
    judged = body.get("documents") or body.get("texts") or body.get("text_2") or ()
    return [*body.get("input", ()), *(each for each in judged if isinstance(each, str))]


def _encoded(vectors: Vectors, body: Mapping[str, Any]) -> list[Any]:
    if body.get("encoding_format") != "base64":
        return list(vectors.tolist())
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]


def said(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of all messages."""
    return "\n".join(part.get("text", "") for message in messages for part in message["content"])


def embeddings(vectors: Sequence[Any]) -> dict[str, Any]:
    """An answer of /v1/embeddings."""
    return {"object": "list", "data": [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]}


@contextmanager
def serving(engine: Engine) -> Iterator[Engine]:
    """Run the engine; its `url` says where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(engine))
    thread = threading.Thread(target=server.serve_forever, args=[0.01], name="engine")
    thread.start()
    engine.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield engine
    finally:
        engine.stalled.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def do_GET(self) -> None:
            known = self.path == "/v1/models" and engine.names is not None
            body = json.dumps({"data": [{"id": name} for name in engine.names or ()]}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            answer = engine.answer(Request(self.path, dict(self.headers), json.loads(content), self.client_address[1]))
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body) + answer.missing)}
            self.close_connection = bool(answer.missing)
            self.send_response(answer.status)
            for name, value in {**headers, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
