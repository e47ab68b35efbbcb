"""Images behind URLs: whom we ask, where we are led, and when we give up."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pgmeaning.errors import InputError
from pgmeaning.media import TRUSTED, Policy, fetch_image, read_image
from pgmeaning.media.web import may_be_asked
from tests.images import BLUE, Web, answering, encoded, noise, plain_image, web
from tests.needs import needs_program


@pytest.fixture(scope="module")
def running() -> Iterator[Web]:
    with web() as served:
        yield served


@pytest.fixture
def served(running: Web) -> Web:
    running.answers = {"/a.png": answering(encoded(plain_image(BLUE)))}
    running.asked.clear()
    return running


def allowed(served: Web, **limits: Any) -> Policy:
    """A policy with which the local server may be asked."""
    return Policy(private_hosts=(served.host,), **limits)


def looked_up(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names have these addresses, one list a look-up, the last for good; returns the names that were asked for."""
    names: list[str] = []
    real: Any = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        if host[0].isdigit():
            return list(real(host, port, *arguments, **options))
        names.append(host)
        chosen = answers[min(len(names), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in chosen]

    monkeypatch.setattr("pgmeaning.media.web.socket.getaddrinfo", getaddrinfo)
    return names


def test_an_image_is_fetched_from_an_allowed_host(served: Web) -> None:
    assert fetch_image(served.url("/a.png"), allowed(served)) == encoded(plain_image(BLUE))
    served.answers["/a.png?x=1"] = served.answers["/a.png"]
    assert read_image(served.url("/a.png?x=1#y"), allowed(served)).getpixel((0, 0)) == BLUE
    assert served.asked == [("/a.png", served.host), ("/a.png?x=1", served.host)]


def test_the_name_is_sent_as_host_while_the_checked_address_is_asked(
    served: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = looked_up(monkeypatch, ["127.0.0.1"])
    policy = Policy(private_hosts=(f"images.example:{served.port}",))
    fetch_image(f"http://images.example:{served.port}/a.png", policy)
    assert names == ["images.example"]
    assert served.asked == [("/a.png", f"images.example:{served.port}")]


@pytest.mark.parametrize("policy", [Policy(), TRUSTED, Policy(hosts=("other.example", "*.other.example"))])
def test_no_other_host_is_asked(policy: Policy, served: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_up(monkeypatch, ["127.0.0.1"])
    for url in (served.url("/a.png"), "https://images.example/a.png", "http://notother.example/"):
        with pytest.raises(InputError, match=r"host is not allowed.*PGMEANING_MEDIA_HOSTS"):
            read_image(url, policy)
    assert names == []
    assert served.asked == []


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("images.example", "http://IMAGES.example./a", True),
        ("Images.Example", "https://images.example/a", True),
        ("*.example", "http://a.b.example/a", True),
        ("*.example", "http://example/a", False),
        ("*.example", "http://badexample/a", False),
        ("*", "http://anything.example/a", True),
        ("images.example", "http://images.example:8080/a", False),
        ("images.example:8080", "http://images.example:8080/a", True),
        ("images.example:8080", "http://images.example/a", False),
        ("images.example", "http://images.example@evil.example/a", False),
        ("images.example", "http://evil.example/images.example", False),
        ("images.example", "http://evil.example\\@images.example/a", False),
        ("xn--bcher-kva.example", "http://bücher.example/a", True),
    ],
)
def test_hosts_match_by_name_and_port(entry: str, url: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_up(monkeypatch, ["10.0.0.1"])
    with pytest.raises(InputError) as refused:
        read_image(url, Policy(hosts=(entry,)))
    assert bool(names) == allowed
    assert ("not a public one" in str(refused.value)) == allowed


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.png", "http://[::1", "http://a:b/", "http://a b/", "https://\0/"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        read_image(url, Policy(hosts=("*",)))


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="contains a user or password") as refused:
        read_image("https://me:secret@images.example/a.png?key=private", Policy(hosts=("*",)))
    assert "secret" not in str(refused.value)
    assert "private" not in str(refused.value)


PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "100.64.0.1", "::1", "fc00::1", "::ffff:10.0.0.1",
           "64:ff9b::a00:1", "2002:a00:1::", "fec0::1", "192.0.0.10", "192.0.0.8"]  # fmt: skip
NEVER = ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:169.254.169.254",
         "64:ff9b::a9fe:a9fe", "255.255.255.255", "240.0.0.1", "::7f00:1", "168.63.129.16",
         "192.0.0.192", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "::ffff:168.63.129.16",
         "64:ff9b::a83f:8110"]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_fetched_only_where_allowed(address: str) -> None:
    assert not may_be_asked(address, private=False)
    assert may_be_asked(address, private=True)


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_asked(address: str) -> None:
    assert not may_be_asked(address, private=False)
    assert not may_be_asked(address, private=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_public_addresses_may_be_asked(address: str) -> None:
    assert may_be_asked(address, private=False)


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    served: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(InputError, match=r"127\.0\.0\.1, which is not a public one"):
        read_image(f"http://images.example:{served.port}/a.png", Policy(hosts=(f"images.example:{served.port}",)))
    assert served.asked == []


def test_a_name_that_changes_its_address_gains_nothing(served: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    names = looked_up(monkeypatch, ["192.0.2.1"], ["127.0.0.1"])
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        read_image(f"http://images.example:{served.port}/a.png", Policy(hosts=(f"images.example:{served.port}",)))
    assert names == ["images.example"]
    assert served.asked == []


def test_numbers_in_disguise_are_judged_as_the_addresses_that_they_are(served: Web) -> None:
    for host in ("0x7f000001", "2130706433", "127.1", "localhost"):
        with pytest.raises(InputError):
            read_image(f"http://{host}:{served.port}/a.png", Policy(hosts=(f"*:{served.port}",)))
    assert served.asked == []


def test_a_redirect_is_followed(served: Web) -> None:
    served.answers["/old"] = answering(b"", 302, Location="/older")
    served.answers["/older"] = answering(b"", 308, Location=served.url("/a.png"))
    assert read_image(served.url("/old"), allowed(served)).getpixel((0, 0)) == BLUE


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://169.254.169.254/latest/meta-data", "host is not allowed"),
        ("http://127.0.0.1:1/a.png", "host is not allowed"),
        ("file:///etc/passwd", "neither http nor https"),
        ("//evil.example/a.png", "host is not allowed"),
    ],
)
def test_each_redirect_is_judged(served: Web, location: str, message: str) -> None:
    served.answers["/old"] = answering(b"", 302, Location=location)
    with pytest.raises(InputError, match=message):
        read_image(served.url("/old"), allowed(served))


def test_redirects_in_a_circle_end(served: Web) -> None:
    served.answers["/round"] = answering(b"", 301, Location="/round")
    with pytest.raises(InputError, match="more than 5 redirects"):
        read_image(served.url("/round"), allowed(served))
    assert len(served.asked) == 6


@pytest.mark.parametrize("status", [204, 301, 404, 500])
def test_another_status_than_200_is_an_error(served: Web, status: int) -> None:
    served.answers["/a.png"] = answering(b"", status)
    with pytest.raises(InputError, match=f"answered {status}"):
        read_image(served.url("/a.png"), allowed(served))


def test_an_html_page_instead_of_the_image_is_named(served: Web) -> None:
    served.answers["/a.png"] = answering(b"<html>Not here</html>")
    with pytest.raises(InputError, match="an HTML page"):
        read_image(served.url("/a.png"), allowed(served))


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_not_read_to_its_end(served: Web, announced: bool) -> None:
    stopped = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if announced:
            handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"\0" * 65536)
        except OSError:
            stopped.set()

    served.answers["/endless"] = endless
    with pytest.raises(InputError, match=r"more than the 1,000,000 allowed"):
        read_image(served.url("/endless"), allowed(served, max_bytes=1_000_000))
    assert stopped.wait(10)


@pytest.mark.parametrize("part", ["nothing", "headers", "body"])
def test_a_server_that_drips_does_not_outlast_the_time_out(served: Web, part: str) -> None:
    given_up = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        elif part == "headers":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while part != "nothing" and not given_up.wait(0.02):
            try:
                handler.wfile.write(b"x")
                handler.wfile.flush()
            except OSError:
                return
        given_up.wait(10)

    served.answers["/slow"] = slow
    try:
        with pytest.raises(InputError, match=r"took too long.*PGMEANING_MEDIA_TIMEOUT"):
            read_image(served.url("/slow"), allowed(served, timeout=0.3))
    finally:
        given_up.set()


def test_a_name_that_is_looked_up_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("pgmeaning.media.web.socket.getaddrinfo", lambda *_, **__: answered.wait(30) and [])
    try:
        with pytest.raises(InputError, match="took too long"):
            read_image("https://images.example/a.png", Policy(hosts=("*",), timeout=0.1))
    finally:
        answered.set()


def test_a_body_that_ends_early_is_an_error(served: Web) -> None:
    served.answers["/a.png"] = answering(encoded(noise()), Content_Length="1000000")
    with pytest.raises(InputError, match="cannot be fetched"):
        read_image(served.url("/a.png"), allowed(served))


def test_a_compressed_answer_is_not_unpacked(served: Web) -> None:
    served.answers["/a.png"] = answering(gzip.compress(encoded()), Content_Encoding="gzip")
    with pytest.raises(InputError, match="gzip"):
        read_image(served.url("/a.png"), allowed(served))


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match="cannot be fetched"):
        read_image(f"http://{host}/a.png", Policy(private_hosts=(host,)))


def test_the_environments_proxies_are_not_asked(served: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert read_image(served.url("/a.png"), allowed(served)).getpixel((0, 0)) == BLUE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of images.example, with its key."""
    openssl = needs_program("openssl")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=images.example"]
    more = ["-addext", "subjectAltName=DNS:images.example", "-keyout", str(file), "-out", str(file) + ".crt"]
    subprocess.run([openssl, "req", "-x509", *options, *more], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(str(file) + ".crt").read_text())
    return file


def test_the_certificate_must_be_that_of_the_name(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgmeaning.media.web.tls", lambda: ssl.create_default_context(cafile=str(certificate)))
    looked_up(monkeypatch, ["127.0.0.1"])
    with web(certificate) as served:
        served.answers["/a.png"] = answering(encoded(plain_image(BLUE)))
        policy = Policy(private_hosts=(f"*:{served.port}",))
        assert read_image(f"https://images.example:{served.port}/a.png", policy).getpixel((0, 0)) == BLUE
        with pytest.raises(InputError, match=r"(?i)certificate"):
            read_image(f"https://other.example:{served.port}/a.png", policy)
        assert len(served.asked) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up(monkeypatch, ["127.0.0.1"])
    with web(certificate) as served, pytest.raises(InputError, match=r"(?i)certificate"):
        read_image(f"https://images.example:{served.port}/a.png", Policy(private_hosts=(f"*:{served.port}",)))
