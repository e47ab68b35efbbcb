"""One HTTP endpoint: requests with retries and a key, JSON responses, and errors that name it and say what to do."""

from __future__ import annotations

import json
import os
import random
import re
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from pgmeaning.errors import BadVector, EndpointDown, InputError, ModelError, ModelUnavailable, TimedOut
from pgmeaning.models.registry import SERVING_OPTIONS
from pgmeaning.threads import each
from pgmeaning.types import Model

KEY_VARIABLE = "PGMEANING_API_KEY"
# Beside a variable with a key: the file with it, and the hosts that may have it.
FILE, HOSTS = "_FILE", "_HOSTS"
KEY_HOST = re.compile(r"(?:(https?)://)?(\[[0-9a-f:.]+\]|(?:\*\.)?[^\s/@?#:*\[\]]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}

# Statuses worth a second try, and those that blame the input.
PASSING = frozenset({408, 429, 500, 502, 503, 504, 529})
REFUSED = frozenset({400, 413, 422})
DOWN = frozenset({429, 502, 503, 504, 529})
WRONG = frozenset({401, 403, 404, 405})  # its address or our key is, whatever the input

LONGEST_WAIT = 30.0  # whatever Retry-After says
SHOWN = 300  # characters of what the endpoint said

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Serving:
    """The options for talking to an endpoint; none of them changes a vector."""

    url: str = ""
    served_name: str = ""  # what a request calls the model
    path: str = ""  # if the engine's is not the usual one
    concurrency: int = 8  # requests in progress at once
    timeout: float = 60.0  # seconds without a byte
    retries: int = 4
    batch_rows: int = 32  # inputs in one request
    api_key_env: str = KEY_VARIABLE
    send_dimensions: bool = True  # False: vectors are cut on our side
    rerank_field: str = "documents"  # their field in the request; TEI's is 'texts'
    sigmoid: bool = False  # True: the endpoint returns logits
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # added to every request unchanged
    price: float = 0.0  # of a million tokens: status says what a collection has cost


def serving(model: Model, location: object = None, **options: Any) -> Serving:
    """The registry's options, overridden by the caller's; raises ModelUnavailable if one is unknown or wrong."""
    unknown = options.keys() - SERVING_OPTIONS
    if unknown:
        raise ModelUnavailable(
            f"model {model.name!r}: the http backend has no option {min(unknown)!r}",
            hint=f"it has location and {', '.join(sorted(SERVING_OPTIONS))}",
        )
    kept = {name: value for name, value in model.options.items() if name in SERVING_OPTIONS}
    said = {**kept, **options, **({} if location is None else {"url": str(location)})}
    is_url = _is_url(model.location)
    said.setdefault("url", model.location if is_url else "")
    said.setdefault("served_name", model.name if is_url else model.location or model.name)
    for option in fields(Serving):
        if option.name in said:
            said[option.name] = _typed(model, option.name, option.type, said[option.name])
    _check_path(model, str(said.get("path", "")))
    return Serving(**{**said, "url": _base_url(model, said["url"])})


def _is_url(location: str | None) -> bool:
    return (location or "").startswith(("http://", "https://"))


def _typed(model: Model, name: str, kind: Any, value: Any) -> Any:
    wanted: dict[str, tuple[type, ...]] = {
        "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "Mapping[str, Any]": (dict,)
    }  # fmt: skip
    wrong = not isinstance(value, wanted[kind]) or (isinstance(value, bool) and kind != "bool")
    if wrong or (kind in ("int", "float") and value < (0 if name == "retries" else 1e-9)):
        raise ModelUnavailable(f"model {model.name!r}: its option {name} cannot be {value!r}", hint=f"give a {kind}")
    return value


def _base_url(model: Model, url: str) -> str:
    if not _is_url(url):
        raise ModelUnavailable(
            f"model {model.name!r} has no endpoint" if not url else f"model {model.name!r}: {url!r} is not a URL",
            hint="give the engine's base URL as its location or its option url, such as http://127.0.0.1:8000",
        )
    if "@" in urlsplit(url).netloc:
        raise ModelUnavailable(
            f"model {model.name!r}: its URL contains a user or password", hint=f"put the key into {KEY_VARIABLE}"
        )
    return url.rstrip("/").removesuffix("/v1")


def _check_path(model: Model, path: str) -> None:
    """Raise ModelUnavailable for a path that would lead to another host, as `@host/` or `.host/` behind a URL does."""
    if path and not path.startswith("/"):
        raise ModelUnavailable(f"model {model.name!r}: its option path is {path!r}", hint="it begins with a slash")


class Endpoint:
    """Posts JSON and returns JSON. Any thread may use it; connections are kept and shared."""

    def __init__(self, model: Model, how: Serving, wait: Callable[[float], None] = time.sleep) -> None:
        self.how = how
        self._model = model.name
        self._wait = wait
        api_key(how.api_key_env), key_hosts(how.api_key_env)  # a wrong one is an error now
        limits = httpx.Limits(max_connections=how.concurrency, max_keepalive_connections=how.concurrency)
        self._client = httpx.Client(timeout=httpx.Timeout(how.timeout, pool=None), limits=limits)
        weakref.finalize(self, self._client.close)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Post a body, and return what `read` makes of the answer.

        Raises InputError if the endpoint refuses the input, BadVector if `read` does, EndpointDown if the endpoint
        is down for any input, ModelError, TimedOut.
        """
        url = self.how.url + path
        content = json.dumps(
            {**self.how.extra_body, "model": self.how.served_name, **body}, ensure_ascii=False, allow_nan=False
        ).encode()
        answer = self._answer(url, self._respond(url, content))
        try:
            return read(answer)
        except BadVector as error:
            raise BadVector(
                f"{self._who(url)} {Exception.__str__(error)}", hint=error.hint,
                public=self._public("returned something unusable"),
            ) from None  # fmt: skip

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The result of `work` for each item, in order, with several in progress at once; raises the first error."""
        return each(work, items, self.how.concurrency)

    def _respond(self, url: str, content: bytes) -> httpx.Response:
        attempt = 0
        while True:
            last = attempt == self.how.retries
            response = self._try(url, content, last=last)
            if response is not None and (last or response.status_code not in PASSING):
                return response
            self._wait(_seconds(response, attempt))
            attempt += 1

    def _try(self, url: str, content: bytes, *, last: bool) -> httpx.Response | None:
        """A response, or None if there was none but another try may bring one."""
        try:
            return self._client.post(url, content=content, headers=self._headers(url))
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            # Not tried again: it would stall again, and the engine still works on the request that nobody waits for.
            raise TimedOut(
                f"{self._who(url)} did not answer within {self.how.timeout:g} seconds",
                hint="set the option timeout higher, or use smaller batches (batch_rows)",
                public=self._public("did not answer in time"),
            ) from None
        except httpx.TransportError as error:
            if not last:
                return None
            raise self._unreached(url, error) from None

    def _headers(self, url: str) -> dict[str, str]:
        """With the key, if the host may have it: the registry says where to ask, the settings who gets the key."""
        key = api_key(self.how.api_key_env)
        sent = key is not None and may_have_key(url, self.how.api_key_env)
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if sent else {})

    def _unreached(self, url: str, error: httpx.TransportError) -> ModelError:
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol | httpx.ProxyError):
            return EndpointDown(
                f"{self._who(url)} cannot be reached: {reason}", hint="is the engine running there?",
                public=self._public("cannot be reached"),
            )  # fmt: skip
        # The input may have crashed the engine, so it is not cleared of blame.
        return ModelError(
            f"{self._who(url)} dropped the connection: {reason}", hint="see the engine's own log",
            public=self._public("dropped the connection"),
        )  # fmt: skip

    def _answer(self, url: str, response: httpx.Response) -> Any:
        if response.status_code != 200:
            raise self._failure(url, response)
        try:
            return response.json()
        except ValueError:
            kind = response.headers.get("content-type", "unknown type")
            raise EndpointDown(
                f"{self._who(url)} answered with something other than complete JSON ({kind}): {self._said(response)}",
                hint="is this the engine's own address, and not a web page's or a proxy's?",
                public=self._public("answered with something other than complete JSON"),
            ) from None

    def _failure(self, url: str, response: httpx.Response) -> Exception:
        status = response.status_code
        if status in REFUSED:
            what = f"refused the input with {status}"
            return InputError(f"{self._who(url)} {what}: {self._said(response)}", public=self._public(what))
        # An input may cause a 500, but not an engine that is busy, starting or gone.
        kind = EndpointDown if status in DOWN | WRONG or response.is_redirect else ModelError
        what, more, hint = self._reason(url, response)
        return kind(f"{self._who(url)} {what}{more}", hint=hint, public=self._public(what))

    def _reason(self, url: str, response: httpx.Response) -> tuple[str, str, str]:
        """What a status means that blames no input, what the log may add, and what to do."""
        status = response.status_code
        if status in (401, 403):
            return f"denied access ({status})", "", self._about_the_key(url)
        if status in (404, 405):
            what = f"has no {url.removeprefix(self.how.url)}, or no model {self.how.served_name!r} ({status})"
            return what, f": {self._said(response)}", "set the option path or served_name"
        if response.is_redirect:
            return f"redirects elsewhere ({status})", "", "give the final URL"
        return f"failed with {status}", f": {self._said(response)}", "see the engine's own log"

    def _public(self, what: str) -> str:
        """For users of the database, who need not know where the endpoint is, nor what it replied."""
        return f"model {self._model!r}: its endpoint {what}"

    def _about_the_key(self, url: str) -> str:
        """What to do where access is denied."""
        variable, origin = self.how.api_key_env, _origin(url)
        if api_key(variable) is None:
            return f"put its key into {variable} or into the file {variable}{FILE}, and {origin} into {variable}{HOSTS}"
        if may_have_key(url, variable):
            return f"{variable} is not its key"
        return f"the key was not sent: it goes to the hosts in {variable}{HOSTS} alone; for this one, add {origin}"

    def _who(self, url: str) -> str:
        return f"model {self._model!r}: the endpoint {url}"

    def _said(self, response: httpx.Response) -> str:
        """The endpoint's message, on one line, with the key removed if the message repeats it."""
        said, key = response.text, api_key(self.how.api_key_env)
        said = " ".join((said.replace(key, "***") if key else said).split())
        return said[:SHOWN] + "…" if len(said) > SHOWN else said


def api_key(variable: str = KEY_VARIABLE) -> str | None:
    """The key in that variable, or in the file that the variable with _FILE names; read again each time.

    Only variables that begin with PGMEANING_API_KEY: otherwise, whoever may add a model could send any variable to a
    server of their own. Raises ModelUnavailable, never with the key in its message.
    """
    if not variable.startswith(KEY_VARIABLE) or variable.endswith((FILE, HOSTS)):
        raise ModelUnavailable(f"api_key_env is {variable!r}", hint=f"it must begin with {KEY_VARIABLE}")
    key, file = os.environ.get(variable), os.environ.get(f"{variable}{FILE}")
    if not key and file:
        try:
            key = Path(file).read_text()
        except (OSError, ValueError):
            raise ModelUnavailable(f"{variable}_FILE names {file!r}, which cannot be read") from None
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelUnavailable(f"{variable} contains characters that no key has", hint="a key is one line of ASCII")
    return key or None


def key_hosts(variable: str) -> list[tuple[str, str, int]]:
    """(scheme, host, port) of those that may have a key; the host may be `*.name`. Raises ModelUnavailable."""
    found = []
    for entry in os.environ.get(f"{variable}{HOSTS}", "").split(","):
        if not entry.strip():
            continue
        match = KEY_HOST.fullmatch(entry.strip())
        if match is None:
            raise ModelUnavailable(
                f"{variable}{HOSTS} has {entry.strip()!r}, which is not a host",
                hint="write api.example, *.example, api.example:8443 or http://vllm:8000, separated by commas",
            )
        host = match[2].lower().strip("[]")
        scheme = (match[1] or ("http" if _is_loopback(host) else "https")).lower()
        found.append((scheme, host, int(match[3] or PORTS[scheme])))
    return found


def may_have_key(url: str, variable: str) -> bool:
    """Whether the very URL that is asked is at a host that may have the key, and by https or as it is named there."""
    asked = httpx.URL(url)
    port = asked.port or PORTS.get(asked.scheme, 0)
    return any(
        _is_host(asked.host.lower().rstrip("."), host) and port == named_port and asked.scheme in (scheme, "https")
        for scheme, host, named_port in key_hosts(variable)
    )


def _is_host(asked: str, named: str) -> bool:
    return asked == named or (named.startswith("*.") and asked.endswith(named[1:]))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _origin(url: str) -> str:
    """The host of a URL as `_HOSTS` has it: without its scheme where that is https."""
    asked = httpx.URL(url)
    name = f"[{asked.host}]" if ":" in asked.host else asked.host
    port = f":{asked.port}" if asked.port else ""
    plain = asked.scheme == "http" and not (asked.port and _is_loopback(asked.host))
    return f"{'http://' if plain else ''}{name}{port}"


def _seconds(response: httpx.Response | None, attempt: int) -> float:
    """How long to wait before the next try: as long as the endpoint says, or else twice as long as before."""
    said = "" if response is None else str(response.headers.get("retry-after", ""))
    if said.replace(".", "", 1).isdigit():  # else there is none, or it is a date
        return min(float(said), LONGEST_WAIT)
    return min(0.5 * 2.0**attempt, LONGEST_WAIT) * random.uniform(0.5, 1)
