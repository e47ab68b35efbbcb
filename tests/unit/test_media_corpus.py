"""Small files that cost much: each is refused before it is decoded, or decoded within bounds. All are made here."""

from __future__ import annotations

import contextlib
import struct
import threading
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from pgmeaning.errors import InputError
from pgmeaning.media import Policy, fetch_media, read_image, read_video
from pgmeaning.media.pixels import _Gate
from pgmeaning.media.videos import _Taken
from pgmeaning.models.pipeline import ready
from pgmeaning.types import Document
from tests.images import RED, animation, encoded, plain_image, video

POLICY = Policy(max_bytes=1 << 20)
SMALL = Policy(max_pixels=100_000, max_row_pixels=1_000_000, max_video_pixels=1_000_000)


class Decoded:
    """The pixels of each decoding, in order."""

    def __init__(self) -> None:
        self.each: list[int] = []

    @property
    def pixels(self) -> int:
        """All of them."""
        return sum(self.each)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """What Pillow decodes meanwhile: every decoder allocates its image here."""
    counted = Decoded()
    allocate = ImageFile.ImageFile.load_prepare

    def count(image: ImageFile.ImageFile) -> None:
        counted.each.append(image.width * image.height)
        allocate(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", count)
    return counted


# ---------------------------------------------------------------- the corpus


def gif(canvas: tuple[int, int], frames: int, frame: tuple[int, int] = (1, 1)) -> bytes:
    """An animation of tiny frames on a canvas; all but the first as large as is said."""

    def one(size: tuple[int, int]) -> bytes:
        place = b"\x2c" + struct.pack("<HHHHB", 0, 0, *size, 0)
        return b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + place + b"\x02\x02\x44\x01\x00"

    head = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0)
    return head + b"\xff\xff\xff\x00\x00\x00" + one((1, 1)) + one(frame) * (frames - 1) + b"\x3b"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def png(*extra: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """A black PNG with extra chunks before its pixels."""
    header = struct.pack("!IIBBBBB", *size, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((size[0] + 1) * size[1]), 9)
    body = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def apng(frames: int, size: tuple[int, int]) -> bytes:
    """A PNG that promises so many frames."""
    control = struct.pack("!IIIIIHHBB", 0, *size, 0, 0, 1, 10, 0, 0)
    return png(chunk(b"acTL", struct.pack("!II", frames, 0)), chunk(b"fcTL", control), size=size)


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG with its last scan over and over."""
    data = encoded(plain_image(size=(64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + data[-2:]


def tiff_of_tiles(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of so many."""
    data = zlib.compress(bytes(4096))
    entries = [
        (256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def tiff_of_pages(pages: int) -> bytes:
    first, *others = [plain_image()] * pages
    return encoded(first, "TIFF", save_all=True, append_images=others)


def webp(canvas: tuple[int, int], frames: int) -> bytes:
    """An animation whose frames of one pixel lie on a canvas; a flipped bit each, or they would be merged."""
    pixel = encoded(plain_image(size=(1, 1)), "WEBP", lossless=True)[12:]
    body = b"\0" * 6 + b"\0" * 6 + (100).to_bytes(3, "little") + b"\0" + pixel
    head = b"\x02\0\0\0" + b"".join((side - 1).to_bytes(3, "little") for side in canvas)

    def part(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    whole = b"WEBP" + part(b"VP8X", head) + part(b"ANIM", bytes(6)) + part(b"ANMF", body) * frames
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def text_bomb(kind: bytes) -> bytes:
    """A PNG with a compressed text or profile of 100 MB."""
    packed = zlib.compress(bytes(100_000_000), 9)
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    return png(chunk(kind, head + packed))


def long_video(codec: str = "mpeg4", size: tuple[int, int] = (320, 240), frames: int = 40) -> bytes:
    return video(frames=frames, size=size, codec=codec)


OTHER_FORMATS = {
    "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='file:///etc/passwd'/></svg>",
    "PS": b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file\nshowpage",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF",
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIII", 32, 60, 0, 0, 0, 0) + b"\xff" * 4 + b"%!PS" * 20,
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack("!HIIHH", 3, 8, 8, 8, 3) + bytes(99),
    "ICO": encoded(plain_image(size=(16, 16)), "ICO"),
    "TGA": encoded(plain_image(size=(16, 16)), "TGA"),
    "ICNS": encoded(plain_image(size=(16, 16)), "ICNS"),
    "MSP": encoded(plain_image(size=(16, 16)).convert("1"), "MSP"),
}


# ---------------------------------------------------------------- refused before anything is decoded


NOT_DECODED: dict[str, tuple[Callable[[], Document], str]] = {
    "a canvas of 63 million pixels and 40 tiny frames": (
        lambda: Document(videos=(gif((7900, 8000), 40),)), r"2,528,000,000 pixels .* 512,000,000 allowed .*ROW_PIXELS"
    ),
    "forty thousand frames": (lambda: Document(videos=(gif((1, 1), 40_000),)), "longer than the 600 seconds"),
    "frames that last an hour": (
        lambda: Document(videos=(gif((8, 8), 3).replace(b"\x0a\x00\x00\x00\x2c", b"\xff\xff\x00\x00\x2c"),)),
        "longer than the 600 seconds",
    ),
    "a frame far larger than its canvas": (
        lambda: Document(videos=(gif((1, 1), 2, (60_000, 60_000)),)), "3,600,000,000 pixels a frame"
    ),
    "an animated PNG that promises two billion frames": (
        lambda: Document(videos=(apng(0x7FFFFFFF, (9, 9)),)), "longer than the 600 seconds"
    ),
    "an animated PNG of large frames": (
        lambda: Document(videos=(apng(100, (7000, 7000)),)), "4,900,000,000 pixels"
    ),
    "an animated WebP of tiny frames on a large canvas": (
        lambda: Document(videos=(webp((8000, 7900), 40),)), "2,528,000,000 pixels"
    ),
    "a JPEG with a thousand scans": (lambda: Document(images=(jpeg_of_scans(1000),)), "more than 100 scans"),
    "a TIFF with a tile of four billion pixels": (
        lambda: Document(images=(tiff_of_tiles(65_536),)), "tiles of 65536 x 65536"
    ),
    "a TIFF of pages as a video": (lambda: Document(videos=(tiff_of_pages(3),)), "a TIFF image is not a video"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_DECODED)
def test_what_would_cost_too_much_is_refused_before_it_is_decoded(name: str, decoded: Decoded) -> None:
    document, message = NOT_DECODED[name]
    with pytest.raises(InputError, match=message):
        fetch_media(document(), POLICY)
    assert decoded.pixels == 0


@pytest.mark.parametrize("name", NOT_DECODED)
def test_an_application_that_reads_it_is_no_worse_off(name: str, decoded: Decoded) -> None:
    document = NOT_DECODED[name][0]()
    read: Callable[[Any], Any] = read_image if document.images else read_video
    with pytest.raises(InputError):
        read((document.images or document.videos)[0])
    assert decoded.pixels == 0


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_format_that_is_not_on_the_list_is_refused(name: str, decoded: Decoded) -> None:
    for document in (Document(images=(OTHER_FORMATS[name],)), Document(videos=(OTHER_FORMATS[name],))):
        with pytest.raises(InputError):
            fetch_media(document, POLICY)
    assert decoded.pixels == 0


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_compressed_text_or_profile_is_not_unpacked(kind: bytes) -> None:
    read = 0
    bomb = text_bomb(kind)
    unpack = zlib.decompressobj

    class Watched:
        def __init__(self) -> None:
            self._inner = unpack()

        def decompress(self, data: bytes, most: int = 0) -> bytes:
            nonlocal read
            found = self._inner.decompress(data, most)
            read = max(read, len(found))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.PngImagePlugin.zlib.decompressobj", Watched)
        with contextlib.suppress(InputError):
            fetch_media(Document(images=(bomb,)), POLICY)
    assert read <= 2 << 20


# ---------------------------------------------------------------- the row's account


def test_the_images_of_a_row_are_counted_together(decoded: Decoded) -> None:
    image = png(size=(300, 300))
    fetch_media(Document(images=(image,) * 11), SMALL)
    with pytest.raises(InputError, match=r"1,080,000 pixels with all their frames, more than the 1,000,000 allowed"):
        fetch_media(Document(images=(image,) * 12), SMALL)
    assert decoded.pixels == 2 * 11 * 90_000


def test_images_animations_and_lists_of_images_share_one_account() -> None:
    row = {"images": (png(size=(300, 300)),) * 5, "videos": (gif((300, 300), 5), [png(size=(300, 300))] * 2)}
    with pytest.raises(InputError, match="pixels with all their frames"):
        fetch_media(Document(**row), SMALL)  # type: ignore[arg-type]


def test_the_videos_of_a_row_are_counted_together() -> None:
    one = long_video(frames=8)  # 614,400 pixels
    fetch_media(Document(videos=(one,)), SMALL)
    with pytest.raises(InputError, match=r"more than the 1,000,000 pixels allowed.*PGMEANING_MEDIA_VIDEO_PIXELS"):
        fetch_media(Document(videos=(one, one)), SMALL)


def test_of_an_animated_image_only_the_first_frame_is_decoded(decoded: Decoded) -> None:
    fetch_media(Document(images=(gif((300, 300), 1000),)), SMALL)
    assert decoded.pixels == 90_000


def test_of_a_tiff_only_the_first_page_is_decoded(decoded: Decoded) -> None:
    fetch_media(Document(images=(tiff_of_pages(50),)), SMALL)
    assert decoded.pixels == 24 * 16


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_each_frame_of_an_animation_is_decoded_once(format: str, decoded: Decoded) -> None:
    colors = [(20 * number, 0, 0) for number in range(6)]
    read = read_video(animation(colors, format))
    assert len(read.frames) == 6
    assert decoded.pixels == 6 * 24 * 16


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_an_animated_avif_is_charged_for_being_decoded_twice() -> None:
    first, *others = [plain_image((20 * number, 0, 0), (300, 300)) for number in range(6)]
    data = encoded(first, "AVIF", save_all=True, append_images=others)
    with pytest.raises(InputError, match="1,080,000 pixels"):
        fetch_media(Document(videos=(data,)), SMALL)


WHOLE: dict[str, Callable[[], bytes]] = {
    "GIF": lambda: gif((300, 300), 4, (20, 20)),
    "GIF of colors": lambda: animation([RED, (0, 0, 255), (0, 255, 0)], "GIF"),
    "APNG": lambda: animation([RED, (0, 0, 255), (0, 255, 0)], "PNG"),
    "WebP": lambda: animation([RED, (0, 0, 255), (0, 255, 0)], "WEBP"),
    "WebP of pixels": lambda: webp((300, 300), 4),
    "TIFF": lambda: tiff_of_pages(3),
    "tile": lambda: tiff_of_tiles(16),
    "JPEG": lambda: jpeg_of_scans(2),
    "PNG": lambda: png(size=(300, 300)),
    "BMP": lambda: encoded(format="BMP"),
    "JPEG 2000": lambda: encoded(format="JPEG2000"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_broken_file_costs_no_more_than_a_row_may(name: str, decoded: Decoded) -> None:
    """Bytes of the head, where sizes and counts are, changed at random: the same ones each time."""
    random = Random(name)
    whole = WHOLE[name]()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(random.choice((1, 2, 4))):
            data[random.randrange(min(len(data), 400))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        for document in (Document(images=(bytes(data),)), Document(videos=(bytes(data),))):
            decoded.each.clear()
            with contextlib.suppress(InputError):
                fetched = fetch_media(document, SMALL)
                for image in fetched.images:
                    read_image(image)
                for medium in fetched.videos:
                    read_video(medium)
            # Once to fetch it and once to read it.
            assert decoded.pixels <= 2 * SMALL.max_row_pixels
            assert max(decoded.each, default=0) <= SMALL.max_pixels


# ---------------------------------------------------------------- videos whose headers lie


def test_a_codec_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(InputError, match="codec that is not supported here: ffv1"):
        fetch_media(Document(videos=(video(format="matroska", codec="ffv1"),)), POLICY)


def test_a_video_of_more_frames_than_any_device_takes_is_refused() -> None:
    policy = Policy(max_seconds=0.1)
    with pytest.raises(InputError, match=r"longer than the 0\.1 seconds"):
        fetch_media(Document(videos=(video(frames=40, rate=1000),)), policy)


def test_frames_that_turn_out_larger_than_the_header_says_are_charged_as_they_are() -> None:
    """The container says 64 x 48, the stream inside has frames of 640 x 480."""
    data = video(frames=20, size=(640, 480), format="avi")
    lying = data.replace(struct.pack("<II", 640, 480), struct.pack("<II", 64, 48))
    assert lying != data
    with pytest.raises(InputError):
        read_video(lying, SMALL)


# ---------------------------------------------------------------- how much is held


def test_a_jpeg_far_larger_than_the_model_reads_is_decoded_smaller(decoded: Decoded) -> None:
    read = read_image(encoded(plain_image(size=(1600, 1200)), "JPEG"), at_most=200_000)
    assert decoded.pixels == 400 * 300
    assert read.size == (400, 300)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_any_other_image_is_reduced_band_by_band(format: str) -> None:
    read = read_image(encoded(plain_image(RED, (1603, 1201)), format), at_most=200_000)
    assert read.size == (401, 301)
    assert np.abs(np.asarray(read).astype(int) - RED).max() <= 3


def test_a_reduced_image_is_the_mean_of_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1200, 1600), np.uint8)
    read = read_image(encoded(Image.fromarray(pixels), "PNG"), at_most=120_000)
    wanted = pixels.reshape(300, 4, 400, 4).mean(axis=(1, 3))
    assert np.abs(np.asarray(read)[..., 0] - wanted).max() <= 1


def test_a_thin_image_keeps_its_shape() -> None:
    assert read_image(png(size=(6400, 20)), at_most=1000).size == (6400, 20)


@pytest.mark.parametrize("factor", [1, 3])
def test_bands_meet_without_a_seam(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 300, 4), np.uint8), "RGBA")
    at_most = 600 * 300 // factor**2
    whole = read_image(own, at_most=at_most)
    monkeypatch.setattr("pgmeaning.media.images.BAND_PIXELS", 300 * 7)
    assert read_image(own, at_most=at_most).tobytes() == whole.tobytes()
    assert whole.size == (300 // factor, 600 // factor)


def test_frames_of_a_video_are_reduced_one_by_one() -> None:
    read = read_video(video(frames=10, size=(640, 480)), at_most=4 * 320 * 240)
    assert {frame.size for frame in read.frames} == {(320, 240)}


def test_64_frames_in_full_hd_keep_their_size_for_qwen3_vl() -> None:
    """So vectors equal the published ones. A model's frames have 7,864,320 pixels, in pairs; see vision.py."""
    assert _Taken(POLICY, 1.0, 64, 16 * 2 * 7_864_320).each(64) >= 1920 * 1080


def test_images_decoded_at_a_time_are_bounded() -> None:
    gate, first, entered = _Gate(100), threading.Event(), threading.Event()

    def hold() -> None:
        with gate.holding(60):
            first.set()
            entered.wait(5)

    def follow() -> None:
        with gate.holding(60):
            followed.append(entered.is_set())

    followed: list[bool] = []
    holder = threading.Thread(target=hold)
    holder.start()
    first.wait(5)
    follower = threading.Thread(target=follow)
    follower.start()
    with gate.holding(40):  # what fits goes beside
        pass
    entered.set()
    holder.join()
    follower.join()
    assert followed == [True]


def test_an_image_larger_than_the_bound_is_decoded_alone() -> None:
    with _Gate(100).holding(1000):
        pass


# ---------------------------------------------------------------- before the model's turn


class Plain:
    """An embedder that prepares nothing itself."""

    def embed_documents(self, documents: Any) -> Any:
        """Not called."""
        raise NotImplementedError


def test_images_are_decoded_before_the_turn_of_an_embedder_that_does_not_prepare_them() -> None:
    (group,) = ready(Plain(), [Document(images=(png(),)), Document("text")])
    assert group.error is None
    assert isinstance(group.documents[0].images[0], Image.Image)
    assert group.documents[1] == Document("text")


def test_no_more_images_are_held_decoded_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgmeaning.models.pipeline.HELD_PIXELS", 2 * 90_000)
    documents = [Document(images=(png(size=(300, 300)),)) for _ in range(5)]
    assert [len(group.documents) for group in ready(Plain(), documents)] == [2, 2, 1]


def test_an_image_that_cannot_be_decoded_stands_alone() -> None:
    documents = [Document("a"), Document(images=(png()[:45],)), Document("b")]
    groups = list(ready(Plain(), documents))
    assert [len(group.documents) for group in groups] == [1, 1, 1]
    assert [isinstance(group.error, InputError) for group in groups] == [False, True, False]


def test_what_a_policy_allowed_to_fetch_may_be_decoded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    generous = Policy(max_pixels=100_000_000)
    (image,) = fetch_media(Document(images=(png(size=(8200, 8000)),)), generous).images
    assert read_image(image, at_most=1_000_000).width < 1100
