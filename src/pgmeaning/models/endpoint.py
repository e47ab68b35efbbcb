"""One HTTP endpoint: requests with retries and a key, JSON responses, and errors that name it and say what to do."""

from __future__ import annotations

import difflib
import json
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import httpx

from pgmeaning.errors import BadVector, EndpointDown, InputError, ModelError, TimedOut
from pgmeaning.models.keys import FILE, HOSTS, api_key, key_hosts, may_have_key, origin
from pgmeaning.models.options import Serving
from pgmeaning.threads import Pool, each
from pgmeaning.types import Model

# Statuses worth a second try, and those that blame the input.
PASSING = frozenset({408, 429, 500, 502, 503, 504, 529})
REFUSED = frozenset({400, 413, 422})
DOWN = frozenset({429, 502, 503, 504, 529})
WRONG = frozenset({401, 403, 404, 405})  # its address or our key is, whatever the input

LONGEST_WAIT = 30.0  # whatever Retry-After says
SHOWN = 300  # characters of what the endpoint said
SHOWN_NAMES = 5

# Queries do not wait for a connection of bulk work.
QUERIES_AT_ONCE = 2
NAMES_SECONDS = 5.0

T = TypeVar("T")
R = TypeVar("R")


class Endpoint:
    """Posts JSON and returns JSON. Any thread may use it; connections are kept and shared."""

    def __init__(self, model: Model, how: Serving, wait: Callable[[float], None] = time.sleep) -> None:
        self.how = how
        self._model = model.name
        self._wait = wait
        api_key(how.api_key_env), key_hosts(how.api_key_env)  # a wrong one is an error now
        most = how.concurrency + QUERIES_AT_ONCE
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._client = httpx.Client(timeout=httpx.Timeout(how.timeout, pool=None), limits=limits)
        # While as many requests as allowed are under way, the next are made ready: encoding images takes a while.
        self._pool = Pool(2 * how.concurrency)
        self._turns = threading.BoundedSemaphore(how.concurrency)
        self._this_thread = threading.local()
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
        with self._turns if getattr(self._this_thread, "takes_turns", False) else nullcontext():
            response = self._respond(url, content)
        answer = self._answer(url, response)
        try:
            return read(answer)
        except BadVector as error:
            raise BadVector(
                f"{self._who(url)} {Exception.__str__(error)}", hint=error.hint,
                public=self._public("returned something unusable"),
            ) from None  # fmt: skip

    def start(self, work: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        """Begin `work` for each item, over all calls as many at once as allowed; what is returned waits for them."""

        def in_turn(item: T) -> R:
            self._this_thread.takes_turns = True
            return work(item)

        return self._pool.start(in_turn, items)

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The result of `work` for each item, in order, beside what was started: for queries. Raises an error."""
        return each(work, items, QUERIES_AT_ONCE)

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
        if status in REFUSED and not self._is_about_its_name(response):
            what = f"refused the input with {status}"
            return InputError(f"{self._who(url)} {what}: {self._said(response)}", public=self._public(what))
        # An input may cause a 500, but not an engine that is busy, starting or gone.
        kind = EndpointDown if status in DOWN | WRONG | REFUSED or response.is_redirect else ModelError
        what, more, hint = self._reason(url, response)
        return kind(f"{self._who(url)} {what}{more}", hint=hint, public=self._public(what))

    def _reason(self, url: str, response: httpx.Response) -> tuple[str, str, str]:
        """What a status means that blames no input, what the log may add, and what to do."""
        status = response.status_code
        if status in (401, 403):
            return f"denied access ({status})", "", self._about_the_key(url)
        if status in (404, 405) or status in REFUSED:
            return self._reason_of_names(url, response)
        if response.is_redirect:
            return f"redirects elsewhere ({status})", "", "give the final URL"
        return f"failed with {status}", f": {self._said(response)}", "see the engine's own log"

    def _is_about_its_name(self, response: httpx.Response) -> bool:
        """Whether a refusal, as some engines have it, means that they serve no model of that name."""
        if self.how.served_name not in response.text:
            return False
        names = self._served_names()
        return bool(names) and self.how.served_name not in names

    def _reason_of_names(self, url: str, response: httpx.Response) -> tuple[str, str, str]:
        """For an endpoint that has no such model, or no such path; its own list of names tells which."""
        status, asked, names = response.status_code, self.how.served_name, self._served_names()
        if names and asked not in names:
            return f"serves no model {asked!r} ({status})", f": it serves {_listed(names)}", self._suggestion(names)
        what = f"has no {url.removeprefix(self.how.url)}, or no model {asked!r} ({status})"
        return what, f": {self._said(response)}", "set the option path or served_name"

    def _suggestion(self, names: Sequence[str]) -> str:
        near = difflib.get_close_matches(self.how.served_name, names, n=1, cutoff=0.0)[0]
        return f"set its option served_name: pgmeaning model set {self._model} --option served_name={near}"

    def _served_names(self) -> list[str]:
        """What the endpoint says it serves; nothing if it has no such list."""
        url = f"{self.how.url}/v1/models"
        try:
            answer = self._client.get(url, headers=self._headers(url), timeout=NAMES_SECONDS).json()
            return [str(item["id"]) for item in answer["data"]][:100]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return []

    def _public(self, what: str) -> str:
        """For users of the database, who need not know where the endpoint is, nor what it replied."""
        return f"model {self._model!r}: its endpoint {what}"

    def _about_the_key(self, url: str) -> str:
        """What to do where access is denied."""
        variable, host = self.how.api_key_env, origin(url)
        if api_key(variable) is None:
            return f"put its key into {variable} or into the file {variable}{FILE}, and {host} into {variable}{HOSTS}"
        if may_have_key(url, variable):
            return f"{variable} is not its key"
        return f"the key was not sent: it goes to the hosts in {variable}{HOSTS} alone; for this one, add {host}"

    def _who(self, url: str) -> str:
        return f"model {self._model!r}: the endpoint {url}"

    def _said(self, response: httpx.Response) -> str:
        """The endpoint's message, on one line, with the key removed if the message repeats it."""
        said, key = response.text, api_key(self.how.api_key_env)
        said = " ".join((said.replace(key, "***") if key else said).split())
        return said[:SHOWN] + "…" if len(said) > SHOWN else said


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(repr, names[:SHOWN_NAMES])) + more


def _seconds(response: httpx.Response | None, attempt: int) -> float:
    """How long to wait before the next try: as long as the endpoint says, or else twice as long as before."""
    said = "" if response is None else str(response.headers.get("retry-after", ""))
    if said.replace(".", "", 1).isdigit():  # else there is none, or it is a date
        return min(float(said), LONGEST_WAIT)
    return min(0.5 * 2.0**attempt, LONGEST_WAIT) * random.uniform(0.5, 1)
