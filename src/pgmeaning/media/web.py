"""Fetches a file from the web: only from allowed hosts, and from the internal network only if that is allowed too.

A name is looked up once, all of its addresses are checked, and the connection goes to one of those: a name that points
elsewhere a moment later (DNS rebinding) gains nothing. Redirects are followed by hand, each checked like the first URL.
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
HINT = "PGMEANING_MEDIA_HOSTS lists the hosts that may be used"
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Where clouds serve keys or run their machines: Azure, Oracle, Alibaba, and AWS and Google over IPv6.
METADATA = frozenset(
    map(ipaddress.ip_address, ("168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"))
)
# Not public, though the module ipaddress calls most of it global: IETF protocol assignments.
ASSIGNED = ipaddress.ip_network("192.0.0.0/24")
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
        except Exception as error:  # httpcore's own errors, and those of sockets and TLS
            raise InputError(f"{shown(url)} cannot be fetched: {str(error) or type(error).__name__}") from error
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise InputError(f"{shown(url)} cannot be fetched: more than {REDIRECTS} redirects")


def _checked(url: str, policy: Policy) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except Exception as error:
        raise InputError(f"{shown(url)} is not a valid URL: {error}") from None
    if target.scheme not in PORTS or not target.host:
        raise InputError(f"{shown(url)} may not be fetched: it is neither http nor https")
    if target.userinfo:
        raise InputError(f"{shown(url)} contains a user or password", hint="URLs with credentials are not fetched")
    if not _matches(target, (*policy.hosts, *policy.private_hosts)):
        raise InputError(f"{shown(url)} may not be fetched: its host is not allowed", hint=HINT)
    return target


def _matches(target: httpx.URL, allowed: Iterable[str]) -> bool:
    """Whether the host is one of these, at the port given there or else at the scheme's default port."""
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
    """The body, or the target of a redirect."""
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
            raise InputError(f"{shown(target)} cannot be fetched: the server answered {response.status}")
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
    """Connects only to checked addresses, and lets nothing exceed the deadline, however slowly bytes drip in."""

    def __init__(self, private: bool, deadline: float) -> None:
        self._private = private
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        """Connect to the first of the host's addresses that answers."""
        failure: Exception | None = None
        for address in addresses(host, port, private=self._private, seconds=left(self._deadline)):
            try:
                stream = self._inner.connect_tcp(address, port, left(self._deadline), local_address, socket_options)
                return _Hurried(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("the name has no address")


class _Hurried(httpcore.NetworkStream):
    """A stream in which each step may take only the time left until the deadline."""

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
    """The seconds until the deadline; raises InputError if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise too_slow()
    return seconds


def too_slow() -> InputError:
    """The error for a URL that does not arrive in time."""
    return InputError("a URL took too long", hint="PGMEANING_MEDIA_TIMEOUT allows more seconds")


@cache
def tls() -> ssl.SSLContext:
    """The trusted certificates, kept: reading them takes longer than fetching a small image."""
    return httpx.create_ssl_context()


def addresses(host: str, port: int, *, private: bool, seconds: float) -> list[str]:
    """All addresses of a name; raises InputError if one of them may not be used."""
    numbers = _looked_up(host, port, seconds)
    for number in numbers:
        if not may_be_asked(number, private=private):
            raise InputError(
                f"host {host!r} has the address {number}, which is not a public one",
                hint="PGMEANING_MEDIA_PRIVATE_HOSTS lists the hosts of your own network that may be used",
            )
    return numbers


def _looked_up(host: str, port: int, seconds: float) -> list[str]:
    """Look the name up in a thread: the resolver has only its own time-out, of half a minute or more."""
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
        raise InputError(f"host {host!r} cannot be resolved: {found}")
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def may_be_asked(number: str, *, private: bool) -> bool:
    """Whether an address is public, or private if that is allowed. Never link-local nor where clouds serve keys."""
    address = ipaddress.ip_address(number)
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return may_be_asked(str(inner), private=private)
    if address.is_loopback:
        return private
    if address in METADATA or address.is_link_local:
        return False
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    return private or (address not in ASSIGNED and address.is_global and not getattr(address, "is_site_local", False))


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address embedded in an IPv6 address, if any."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
