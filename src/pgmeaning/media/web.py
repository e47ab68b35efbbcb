"""One file from the web: only from hosts that are allowed, and never from inside one's own network by accident.

A name is looked up once, all of its addresses are judged, and the connection goes to one of those: a name that points
elsewhere a moment later (DNS rebinding) gains nothing. Redirects are followed by hand, each judged as the first was.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urljoin

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.media.policy import Policy, shown, too_large

try:
    import httpcore
    import httpx
except ImportError as error:
    raise ModelUnavailable("URLs need httpx, which is not installed", hint="pip install 'pgmeaning[media]'") from error

REDIRECTS = 5
PORTS = {"http": 80, "https": 443}
HINT = "PGMEANING_MEDIA_HOSTS names the hosts that may be asked"
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "pgmeaning",
    "Accept": "image/*, video/*",
    "Accept-Encoding": "identity",
}


def fetch(url: str, policy: Policy) -> bytes:
    """The body of a URL, within the policy's limits; raises InputError."""
    deadline = time.monotonic() + policy.timeout
    for _ in range(REDIRECTS + 1):
        target = _checked(url, policy)
        try:
            found = _get(target, policy, deadline)
        except InputError:
            raise
        except (httpcore.TimeoutException, TimeoutError):
            raise too_slow() from None
        except Exception as error:  # httpcore's own, and what sockets and TLS raise
            raise InputError(f"{shown(url)} cannot be fetched: {str(error) or type(error).__name__}") from error
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise InputError(f"{shown(url)} cannot be fetched: more than {REDIRECTS} redirects")


def _checked(url: str, policy: Policy) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except Exception as error:
        raise InputError(f"{shown(url)} is no valid URL: {error}") from None
    if target.scheme not in PORTS or not target.host:
        raise InputError(f"{shown(url)} may not be fetched: it is neither http nor https")
    if target.userinfo:
        raise InputError(f"{shown(url)} holds a user or password", hint="URLs with credentials are not fetched")
    if not _matches(target, (*policy.hosts, *policy.private_hosts)):
        raise InputError(f"{shown(url)} may not be fetched: its host is not allowed", hint=HINT)
    return target


def _matches(target: httpx.URL, allowed: Iterable[str]) -> bool:
    """Whether the host is one of these, at the port that stands there or else at its scheme's own."""
    host = target.raw_host.decode().rstrip(".")
    port = target.port or PORTS[target.scheme]
    for entry in allowed:
        name, _, number = (
            entry.lower().rpartition(":") if entry.rpartition(":")[2].isdigit() else (entry.lower(), "", "")
        )
        name = name.strip("[]").rstrip(".")
        if (name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))) and port == (
            int(number) if number else PORTS[target.scheme]
        ):
            return True
    return False


def _get(target: httpx.URL, policy: Policy, deadline: float) -> bytes | str:
    """The body, or where a redirect leads."""
    backend = _Guarded(_matches(target, policy.private_hosts), deadline)
    headers = {**HEADERS, "Host": target.netloc.decode()}
    with (
        httpcore.ConnectionPool(ssl_context=tls(), network_backend=backend) as pool,
        pool.stream("GET", str(target.copy_with(fragment=None)), headers=headers) as response,
    ):
        location = _headers(response).get(b"location")
        if response.status in (301, 302, 303, 307, 308) and location is not None:
            return location.decode("ascii", "replace")
        if response.status != 200:
            raise InputError(f"{shown(target)} cannot be fetched: the server answers {response.status}")
        return _body(response, policy)


def _body(response: httpcore.Response, policy: Policy) -> bytes:
    headers = _headers(response)
    if int(headers.get(b"content-length", b"0")) > policy.max_bytes:
        raise too_large(f"{int(headers[b'content-length']):,} bytes of a URL", policy)
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > policy.max_bytes:
            raise too_large("the bytes of a URL", policy)
    return bytes(body)


def _headers(response: httpcore.Response) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in response.headers}


class _Guarded(httpcore.NetworkBackend):
    """Connects to addresses that were judged, and lets nothing go on beyond the deadline, however slowly bytes drip."""

    def __init__(self, private: bool, deadline: float) -> None:
        self._private = private
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        """To the first of the host's addresses that answers."""
        failure: Exception | None = None
        for address in addresses(host, port, private=self._private, seconds=left(self._deadline)):
            try:
                stream = self._inner.connect_tcp(address, port, left(self._deadline), local_address, socket_options)
                return _Hurried(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("the name has no address")


class _Hurried(httpcore.NetworkStream):
    """A stream whose every step has the time that is left in all."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Hurried(self._stream.start_tls(ssl_context, server_hostname, left(self._deadline)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def left(deadline: float) -> float:
    """The seconds until the deadline; raises InputError when there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise too_slow()
    return seconds


def too_slow() -> InputError:
    """The error for a URL that is not there in time."""
    return InputError("a URL took too long", hint="PGMEANING_MEDIA_TIMEOUT allows more seconds")


@cache
def tls() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes longer than a small image does."""
    return httpx.create_ssl_context()


def addresses(host: str, port: int, *, private: bool, seconds: float) -> list[str]:
    """All addresses of a name, if all of them may be asked; raises InputError if one may not."""
    numbers = _looked_up(host, port, seconds)
    for number in numbers:
        if not may_be_asked(number, private=private):
            raise InputError(
                f"host {host!r} has the address {number}, which is not a public one",
                hint="PGMEANING_MEDIA_PRIVATE_HOSTS names hosts of one's own network",
            )
    return numbers


def _looked_up(host: str, port: int, seconds: float) -> list[str]:
    """In a thread of its own: the resolver knows no time-out but its own, of half a minute and more."""
    answers: SimpleQueue[list[Any] | Exception] = SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, name="pgmeaning look-up", daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except Empty:
        raise too_slow() from None
    if isinstance(found, Exception):
        raise InputError(f"host {host!r} is not known: {found}")
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def may_be_asked(number: str, *, private: bool) -> bool:
    """Whether an address is public, or private where such may be asked. Not link-local: clouds keep keys there."""
    address = ipaddress.ip_address(number)
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return may_be_asked(str(inner), private=private)
    if address.is_loopback:
        return private
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    return private or (address.is_global and not getattr(address, "is_site_local", False))


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
