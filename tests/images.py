"""Images and videos made on the spot, and a server that hands them out, well or badly behaved."""

from __future__ import annotations

import base64
import io
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
from PIL import Image

Color = tuple[int, int, int]
RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (30, 60, 200)


def plain_image(color: Color = RED, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """An image of one color."""
    return Image.new("RGB", size, color)


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """An image that does not compress to nothing."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8))


def encoded(image: Image.Image | None = None, format: str = "PNG", **options: Any) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    (image or plain_image()).save(buffer, format, **options)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def video(
    frames: int = 30, rate: int = 10, size: tuple[int, int] = (64, 48), format: str = "mp4", codec: str = "mpeg4",
    *, bright_top: bool = False, title: str = "",
) -> bytes:  # fmt: skip
    """A video whose n-th frame is gray, and brighter than the one before."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 20 + number * 200 // frames, np.uint8)
            pixels[: size[1] // 2] = 235 if bright_top else pixels[0, 0]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def animation(colors: Sequence[Color], format: str = "GIF", duration: int = 1000) -> bytes:
    """An animation with a frame of each color."""
    first, *others = [plain_image(color) for color in colors]
    return encoded(first, format, save_all=True, append_images=others, duration=duration, loop=0)


Answer = Callable[[BaseHTTPRequestHandler], None]


def answering(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer with this body; headers with _ for -."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


class Web:
    """A local server: what it answers by path, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []  # path, Host

    @property
    def host(self) -> str:
        """The host as a policy names it."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://{self.host}{path}"


@contextmanager
def web(certificate: Path | None = None) -> Iterator[Web]:
    """The server on 127.0.0.1, while the body runs; with a certificate it speaks HTTPS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append((self.path, self.headers["Host"]))
            served.answers.get(self.path, answering(b"", 404))(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that go away are what the tests are about

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served = Web(server.server_address[1])
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
