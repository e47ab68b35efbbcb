"""How an endpoint is found and spoken to, and what becomes of its failures."""

# ruff: noqa: E402  the endpoint itself imports httpx

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pgmeaning.errors import EndpointDown, InputError, ModelError, ModelUnavailable, TimedOut
from pgmeaning.models import load_embedder
from pgmeaning.models.registry import builtin_model, fingerprint
from pgmeaning.types import Model
from tests.engine import Answer, Engine, Request, embeddings, serving
from tests.needs import needs_package

needs_package("httpx", "http")

from pgmeaning.models.endpoint import LONGEST_WAIT, Endpoint
from pgmeaning.models.keys import may_have_key
from pgmeaning.models.options import serving as how
from pgmeaning.threads import each

MODEL = Model("served", "embedder", "http", location="some/model", dimensions=384, max_tokens=100)
KEY = "sk-very-secret"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serving(Engine(load_embedder("synthetic-384").embed_documents)) as running:
        yield running


class Asked:
    """An endpoint whose waits are kept instead of waited for."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.waits: list[float] = []
        self.endpoint = Endpoint(MODEL, how(MODEL, engine.url, **options), wait=self.waits.append)

    def post(self, path: str = "/v1/embeddings") -> Any:
        return self.endpoint.post(path, {"input": ["a"]}, lambda answer: answer)


@pytest.fixture
def key(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGMEANING_API_KEY", KEY)
    monkeypatch.setenv("PGMEANING_API_KEY_HOSTS", urlsplit(engine.url).netloc)
    return KEY


# ---------------------------------------------------------------- another try


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(engine: Engine, status: int) -> None:
    engine.script += [Answer(status), Answer(status), Answer(body="ok")]
    asked = Asked(engine)
    assert asked.post() == "ok"
    assert [0.25 <= asked.waits[0] <= 0.5, 0.5 <= asked.waits[1] <= 1] == [True, True]


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [("0", 0, 0), ("0.25", 0.25, 0.25), ("7", 7, 7), ("99999", LONGEST_WAIT, LONGEST_WAIT), ("-1", 0.25, 0.5),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.25, 0.5)],
)  # fmt: skip
def test_the_wait_is_as_the_endpoint_says_within_limits(engine: Engine, said: str, least: float, most: float) -> None:
    engine.script += [Answer(503, headers={"Retry-After": said}), Answer(body="ok")]
    asked = Asked(engine)
    assert asked.post() == "ok"
    assert least <= asked.waits[0] <= most


def test_tries_come_to_an_end(engine: Engine) -> None:
    engine.script += [Answer(503, "overloaded")] * 3
    asked = Asked(engine, retries=2)
    with pytest.raises(ModelUnavailable, match=f"'served': the endpoint {engine.url}/v1/embeddings failed with 503"):
        asked.post()
    assert len(engine.requests) == 3
    assert len(asked.waits) == 2


def test_an_endpoint_that_is_not_there_is_tried_again_and_named() -> None:
    nowhere = Engine()
    nowhere.url = "http://127.0.0.1:1"
    asked = Asked(nowhere)
    with pytest.raises(
        ModelUnavailable, match=r"the endpoint http://127.0.0.1:1/v1/embeddings cannot be reached: .*run"
    ):
        asked.post()
    assert len(asked.waits) == 4


def test_a_body_that_breaks_off_is_tried_again(engine: Engine) -> None:
    engine.script += [Answer(body="whole", missing=5), Answer(body="ok")]
    assert Asked(engine).post() == "ok"


def test_a_body_that_always_breaks_off_is_an_error(engine: Engine) -> None:
    engine.script += [Answer(body="whole", missing=5)] * 2
    with pytest.raises(ModelError, match=f"{engine.url}/v1/embeddings dropped the connection: peer closed"):
        Asked(engine, retries=1).post()


def test_a_stalling_endpoint_is_given_up_and_not_tried_again(engine: Engine) -> None:
    engine.script.append(engine.stall)
    asked = Asked(engine, timeout=0.05)
    with pytest.raises(TimedOut, match=r"/v1/embeddings did not answer within 0.05 seconds .*timeout"):
        asked.post()
    assert len(engine.requests) == 1


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_input_is_an_input_error_with_the_endpoints_words(engine: Engine, status: int) -> None:
    engine.script.append(Answer(status, {"error": {"message": "too long by far"}}))
    with pytest.raises(InputError, match=f"refused the input with {status}: .*too long by far"):
        Asked(engine).post()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer(401), r"denied access \(401\) .*PGMEANING_API_KEY.*PGMEANING_API_KEY_FILE"),
        (Answer(403), r"denied access \(403\)"),
        (Answer(404, "no route"), r"has no /v1/embeddings, or no model 'some/model' \(404\): .*no route.*served_name"),
        (Answer(405), "has no /v1/embeddings"),
        (Answer(418, b"<html>tea\n  pot"), "failed with 418: <html>tea pot"),
        (Answer(308, headers={"Location": "https://elsewhere"}), r"redirects elsewhere \(308\)"),
        (
            Answer(200, b"<html>hello", {"Content-Type": "text/html"}),
            r"answered .*other than complete JSON \(text/html\): <html>hello .*proxy",
        ),
        (Answer(200, b'{"data": [{"index": 0, "embed'), "answered .*other than complete JSON"),
        (Answer(200, b"\xff\xfe\xff"), "answered .*other than complete JSON"),
    ],
    ids=["401", "403", "404", "405", "418", "308", "html", "cut", "binary"],
)
def test_what_is_no_answer_names_the_endpoint_and_what_to_do(engine: Engine, answer: Answer, complaint: str) -> None:
    engine.script.append(answer)
    with pytest.raises(ModelError, match=f"'served': the endpoint {engine.url}/v1/embeddings {complaint}"):
        Asked(engine).post()
    assert len(engine.requests) == 1


@pytest.mark.parametrize("status", [404, 400])
def test_where_the_name_is_wrong_those_that_are_served_are_listed(engine: Engine, status: int) -> None:
    engine.names = ["Other/Thing", "some/Model-8B", *map(str, range(9))]
    engine.script.append(Answer(status, {"message": "The model `some/model` does not exist."}))
    with pytest.raises(EndpointDown) as failure:
        Asked(engine).post()
    assert (
        f"serves no model 'some/model' ({status}): it serves 'Other/Thing', 'some/Model-8B', '0', '1', '2' and 6 more"
        in str(failure.value)
    )
    assert "pgmeaning model set served --option served_name=some/Model-8B" in str(failure.value)


def test_a_refusal_that_names_the_model_blames_the_input_where_the_name_is_right(engine: Engine) -> None:
    engine.names = ["some/model"]
    engine.script.append(Answer(400, {"message": "some/model reads 100 tokens at most"}))
    with pytest.raises(InputError, match="refused the input with 400"):
        Asked(engine).post()


def test_a_long_page_is_not_quoted_whole(engine: Engine) -> None:
    engine.script.append(Answer(400, b"x" * 100_000))
    with pytest.raises(InputError) as failure:
        Asked(engine).post()
    assert len(str(failure.value)) < 500


# ---------------------------------------------------------------- the key


def test_the_key_is_sent_as_a_bearer_token(engine: Engine, key: str) -> None:
    Asked(engine).post()
    assert engine.requests[-1].headers["Authorization"] == f"Bearer {key}"


def test_without_a_key_nothing_is_sent(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGMEANING_API_KEY", raising=False)
    Asked(engine).post()
    assert "Authorization" not in engine.requests[-1].headers


def test_the_key_may_be_in_a_file_and_change_there(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    monkeypatch.setenv("PGMEANING_API_KEY_OTHER_FILE", str(file))
    monkeypatch.setenv("PGMEANING_API_KEY_OTHER_HOSTS", engine.url.removeprefix("http://"))
    asked = Asked(engine, api_key_env="PGMEANING_API_KEY_OTHER")
    asked.post()
    file.write_text("second")
    asked.post()
    assert [request.headers["Authorization"] for request in engine.requests] == ["Bearer first", "Bearer second"]


def test_the_key_goes_to_no_host_that_is_not_named(engine: Engine, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGMEANING_API_KEY_HOSTS")
    Asked(engine).post()
    assert "Authorization" not in engine.requests[-1].headers


def test_a_host_that_is_denied_the_key_is_named_with_its_setting(
    engine: Engine, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGMEANING_API_KEY_HOSTS", "api.example")
    engine.script.append(Answer(401))
    place = engine.url.removeprefix("http://")
    with pytest.raises(EndpointDown, match=f"the key was not sent: .*PGMEANING_API_KEY_HOSTS alone.* add {place}") as e:
        Asked(engine).post()
    assert KEY not in str(e.value)


@pytest.mark.parametrize(
    ("hosts", "url", "sent"),
    [
        ("api.example", "https://api.example/v1", True),
        ("API.example", "https://api.EXAMPLE/v1", True),
        ("api.example", "https://api.example./v1", True),
        ("api.example", "https://api.example:443/v1", True),
        ("api.example", "http://api.example/v1", False),
        ("api.example", "https://api.example:8443/v1", False),
        ("api.example:8443", "https://api.example:8443/v1", True),
        ("api.example:8443", "http://api.example:8443/v1", False),
        ("http://vllm:8000", "http://vllm:8000/v1", True),
        ("http://vllm:8000", "https://vllm:8000/v1", True),
        ("http://vllm", "https://vllm/v1", False),
        ("http://vllm:8000", "http://vllm:8001/v1", False),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1", True),
        ("127.0.0.1:8000", "http://127.0.0.1:8001/v1", False),
        ("localhost:8000", "http://localhost:8000/v1", True),
        ("[::1]:8000", "http://[::1]:8000/v1", True),
        ("10.0.0.5:8000", "http://10.0.0.5:8000/v1", False),
        ("*.example", "https://a.example/v1", True),
        ("*.example", "https://example/v1", False),
        ("*.example", "https://evilexample/v1", False),
        ("api.example", "https://api.example@evil.example/v1", False),
        ("api.example", "https://api.example.evil.example/v1", False),
        ("api.example", "https://evil.example/?https://api.example/v1", False),
        ("", "https://api.example/v1", False),
        ("first.example, second.example", "https://second.example/v1", True),
    ],
)
def test_a_key_is_bound_to_its_hosts(hosts: str, url: str, sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEANING_API_KEY_HOSTS", hosts)
    assert may_have_key(url, "PGMEANING_API_KEY") is sent


@pytest.mark.parametrize("hosts", ["https://", "a b", "*", "api.example/v1", "user@api.example", "ftp://api.example"])
def test_hosts_that_are_none_are_an_error_at_once(hosts: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEANING_API_KEY_HOSTS", hosts)
    with pytest.raises(ModelUnavailable, match=r"PGMEANING_API_KEY_HOSTS has .*, which is not a host"):
        Asked(engine)


def test_a_redirect_carries_the_key_nowhere(engine: Engine, key: str) -> None:
    with serving(Engine(load_embedder("synthetic-384").embed_documents)) as elsewhere:
        engine.script.append(Answer(307, headers={"Location": elsewhere.url + "/v1/embeddings"}))
        with pytest.raises(EndpointDown, match="redirects elsewhere"):
            Asked(engine).post()
        assert elsewhere.requests == []


def test_a_key_file_that_is_missing_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEANING_API_KEY_FILE", "/nowhere/key")
    with pytest.raises(ModelUnavailable, match="PGMEANING_API_KEY_FILE names '/nowhere/key', which cannot be read"):
        Asked(engine)


@pytest.mark.parametrize("bad", [f"{KEY}\n{KEY}", f"{KEY}ü", f"{KEY}\x01"], ids=["lines", "umlaut", "control"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setenv("PGMEANING_API_KEY", bad)
    with pytest.raises(ModelUnavailable, match="one line of ASCII") as failure:
        Asked(engine)
    assert KEY not in str(failure.value)


@pytest.mark.parametrize(
    "answer",
    [
        *(lambda request, status=status: Answer(status, dict(request.headers)) for status in (400, 401, 404, 418, 500)),
        lambda request: Answer(200, f"<html>{request.headers}".encode()),
        lambda request: Answer(200, dict(request.headers), missing=1),
    ],
    ids=["400", "401", "404", "418", "500", "html", "cut"],
)
def test_the_key_is_in_no_error_and_no_log(
    engine: Engine, key: str, caplog: pytest.LogCaptureFixture, answer: Callable[[Request], Answer]
) -> None:
    caplog.set_level(logging.DEBUG)
    engine.script.append(answer)
    with pytest.raises((ModelError, InputError)) as failure:
        Asked(engine, retries=0).post()
    assert engine.requests[-1].headers["Authorization"].endswith(key)
    assert key not in str(failure.getrepr(style="long", showlocals=False)) + caplog.text
    assert failure.value.__cause__ is None


# ---------------------------------------------------------------- several at once


def test_several_requests_are_under_way_at_once_and_no_more_than_allowed(engine: Engine) -> None:
    together = threading.Barrier(4)

    def _meet(request: Request) -> Answer:
        together.wait(30)  # passes when four are in flight
        return Answer(body=embeddings([[1.0] * 384]))

    engine.script += [_meet] * 8
    embedder = load_embedder(MODEL, location=engine.url, concurrency=4, batch_rows=1)
    assert embedder.embed_documents([str(place) for place in range(8)]).shape == (8, 384)
    assert together.n_waiting == 0


def test_no_more_work_is_under_way_than_allowed() -> None:
    inside = threading.BoundedSemaphore(3)

    def _work(item: int) -> int:
        assert inside.acquire(blocking=False)
        try:
            return item * 2
        finally:
            inside.release()

    assert each(_work, range(200), 3) == [item * 2 for item in range(200)]


def test_the_first_error_ends_the_rest(engine: Engine) -> None:
    engine.script += [Answer(400)] * 2
    embedder = load_embedder(MODEL, location=engine.url, concurrency=2, batch_rows=1)
    with pytest.raises(InputError):
        embedder.embed_documents([str(place) for place in range(100)])
    assert len(engine.requests) < 10


def test_connections_are_kept(engine: Engine) -> None:
    asked = Asked(engine)
    for _ in range(3):
        asked.post()
    assert len({request.port for request in engine.requests}) == 1


# ---------------------------------------------------------------- options and fingerprints


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tempreture": 1}, "no option 'tempreture'.*concurrency"),
        ({"api_key": "secret"}, "no option 'api_key'"),
        ({"concurrency": 0}, "option concurrency cannot be 0"),
        ({"concurrency": True}, "option concurrency cannot be True"),
        ({"timeout": "long"}, "option timeout cannot be 'long'"),
        ({"extra_body": [1]}, "option extra_body cannot be"),
        ({"url": ""}, "has no endpoint.*base URL"),
        ({"url": "ftp://host"}, "'ftp://host' is not a URL"),
        ({"url": "http://user:secret@host"}, "contains a user or password.*PGMEANING_API_KEY"),
        ({"api_key_env": "AWS_SECRET"}, "must begin with PGMEANING_API_KEY"),
        ({"api_key_env": "PGMEANING_API_KEY_FILE"}, "must begin with PGMEANING_API_KEY"),
        ({"path": "@elsewhere.example/"}, "its option path is '@elsewhere.example/'"),
        ({"path": ".elsewhere.example/"}, "it begins with a slash"),
    ],
    ids=str,
)
def test_a_wrong_option_is_an_error_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelUnavailable, match=complaint) as failure:
        load_embedder(MODEL, **{"url": "http://127.0.0.1:1", **options})
    assert "secret" not in str(failure.value)


def test_a_location_that_is_a_url_is_the_endpoint(engine: Engine) -> None:
    for location in (engine.url, engine.url + "/", engine.url + "/v1"):
        load_embedder(replace(MODEL, location=location)).embed_documents(["a"])
        assert engine.requests[-1].path == "/v1/embeddings"
        assert engine.last["model"] == "served"


def test_the_callers_location_comes_before_the_registrys(engine: Engine) -> None:
    model = replace(MODEL, options={"url": "http://127.0.0.1:1", "padding_side": "left"})
    load_embedder(model, location=engine.url).embed_documents(["a"])
    assert engine.last["model"] == "some/model"


def test_how_an_endpoint_is_spoken_to_is_not_in_the_fingerprint() -> None:
    local = builtin_model("Qwen3-Embedding-8B")
    options = {"url": "http://a", "served_name": "s", "concurrency": 2, "extra_body": {"user": "me"}, "path": "/e"}
    served = replace(local, backend="http", options={**local.options, **options})
    assert fingerprint(served) == fingerprint(local)
    assert fingerprint(replace(served, backend="late_interaction")) != fingerprint(local)


def test_a_url_as_location_is_in_the_fingerprint_with_the_name_that_is_asked_for() -> None:
    model = replace(MODEL, location="http://a")
    named = [fingerprint(replace(model, options={"served_name": name})) for name in "ab"]
    assert len({fingerprint(model), fingerprint(MODEL), *named}) == 4


def test_options_survive_the_database() -> None:
    model = replace(
        MODEL, options=json.loads(json.dumps({"url": "http://127.0.0.1:1", "timeout": 5, "sigmoid": False}))
    )
    load_embedder(model)
