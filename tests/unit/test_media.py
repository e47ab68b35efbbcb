"""Images: what every kind of file comes out as, and what each guard refuses."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgmeaning.errors import InputError
from pgmeaning.media import TRUSTED, Policy, fetch_image, image_size, read_image
from tests.images import BLUE, GREEN, RED, animation, data_uri, encoded, noise, plain_image

WHITE = (255, 255, 255)


def corner(source: Any, policy: Policy = TRUSTED) -> tuple[int, ...]:
    """The first pixel of what is read; it must be RGB."""
    image = read_image(source, policy)
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def rotated(orientation: int, format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(plain_image(size=(30, 20)), format, exif=exif)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, with next to no data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# What comes out


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG", "PPM"])
def test_common_formats_are_read(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.allclose(corner(encoded(plain_image(GREEN), format, **options)), GREEN, atol=3)


@pytest.mark.parametrize("kind", ["image", "bytes", "bytearray", "memoryview", "data URI", "str", "Path", "file URI"])
def test_every_kind_of_source_is_the_same_image(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a b.png"
    file.write_bytes(data := encoded(plain_image(BLUE)))
    sources: dict[str, Any] = {
        "image": plain_image(BLUE), "bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data),
        "data URI": data_uri(data), "str": str(file), "Path": file, "file URI": file.as_uri(),
    }  # fmt: skip
    assert corner(sources[kind]) == BLUE
    assert image_size(sources[kind]) == (24, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_comes_upright_and_its_size_is_that_of_the_upright_one(orientation: int, format: str) -> None:
    data = rotated(orientation, format)
    expected = (20, 30) if orientation >= 5 else (30, 20)
    assert read_image(data).size == expected
    assert image_size(data) == expected
    assert read_image(Image.open(io.BytesIO(data))).size == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    if mode in ("RGBA", "LA", "PA"):
        image, options = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode), {}
    else:
        image, options = Image.new(mode, (4, 4)), {"transparency": (0, 0, 0) if mode == "RGB" else 0}
    assert corner(encoded(image, "TIFF" if mode == "PA" else "PNG", **options)) == WHITE
    assert corner(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))) == (255, 127, 127)


def test_cmyk_becomes_rgb() -> None:
    assert np.allclose(corner(encoded(plain_image(RED).convert("CMYK"), "JPEG")), RED, atol=12)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (0x8000, 128), (0xFFFF, 255)])
def test_16_bits_are_scaled_to_8_and_not_cut(value: int, expected: int, format: str) -> None:
    image = Image.fromarray(np.full((4, 4), value, np.uint16))
    assert corner(encoded(image, format)) == (expected,) * 3


def test_one_bit_and_gray_become_rgb() -> None:
    assert corner(encoded(Image.new("1", (4, 4), 1))) == WHITE
    assert corner(encoded(Image.new("L", (4, 4), 7))) == (7, 7, 7)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_read(format: str) -> None:
    data = animation([RED, GREEN], format)
    assert np.allclose(corner(data), RED, atol=6)


def test_an_image_of_ones_own_is_left_as_it_is() -> None:
    own = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    read_image(own).putpixel((0, 0), RED)
    assert own.mode == "RGBA"
    assert own.getpixel((0, 0)) == (0, 0, 0, 0)
    plain = plain_image(BLUE)
    read_image(plain).putpixel((0, 0), RED)
    assert plain.getpixel((0, 0)) == BLUE


def test_a_broken_exif_block_does_not_spoil_the_image() -> None:
    data = encoded(plain_image(GREEN), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert corner(data) == GREEN
    assert image_size(data) == (24, 16)


def test_fetching_hands_back_the_very_bytes() -> None:
    data = encoded(noise(), "JPEG")
    assert fetch_image(data) == data
    assert fetch_image(data_uri(data)) == data


# What is refused

NOT_IMAGES = [
    (b"", "empty"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    (b"<?xml version='1.0'?><svg/>", "XML or SVG"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript document"),
    (b"\n<!DOCTYPE html><title>404</title>", "an HTML page"),
    ("a text, naïve".encode(), "text"),
    (b"PK\x03\x04rest", "a ZIP archive"),
    (b"\x00\x01\x02\x03", "of an unknown type"),
    (b"\x00\x00\x00\x18ftypheic", "HEIC"),
]


@pytest.mark.parametrize(("data", "message"), NOT_IMAGES)
def test_what_is_no_image_is_named(data: bytes, message: str) -> None:
    for read in (read_image, image_size, fetch_image):
        with pytest.raises(InputError, match=message):
            read(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(format: str) -> None:
    data = encoded(noise(), format)
    for read in (read_image, fetch_image):
        with pytest.raises(InputError, match="image"):
            read(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("side", [9_000, 10_000, 16_000, 60_000])
def test_more_pixels_than_allowed_are_refused_by_the_header(side: int) -> None:
    for read in (read_image, image_size, fetch_image):
        with pytest.raises(InputError, match="pixels"):
            read(png_claiming(side, side))


def test_the_limit_of_pixels_holds_for_pil_images_too_and_is_the_policys() -> None:
    with pytest.raises(InputError, match=r"24 x 16, more than the 383 pixels.*PGMEANING_MEDIA_MAX_PIXELS"):
        read_image(plain_image(), Policy(max_pixels=383))
    assert read_image(plain_image(), Policy(max_pixels=384)).size == (24, 16)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="no pixels"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(InputError):
        read_image(png_claiming(0, 5))


def test_brightness_without_a_scale_is_refused() -> None:
    with pytest.raises(InputError, match="no definite brightness"):
        read_image(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


@pytest.mark.parametrize("source", [None, 7, {"url": "x"}, object()])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(InputError, match=f"a {type(source).__name__} is not an image"):
        read_image(source)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,###", "not valid base64"),
        ("data:text/html,<html>", "an HTML page"),
    ],
)
def test_a_bad_data_uri_is_refused(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(uri)


def test_data_uris_are_read_generously() -> None:
    uri = data_uri(encoded(plain_image(RED)))
    assert corner(uri.replace("data:", "DATA:").rstrip("=")) == RED
    assert corner(uri[:60] + "\n  " + uri[60:]) == RED
    assert corner(uri.replace("+", "%2B").replace("=", "%3D")) == RED


def test_more_bytes_than_allowed_are_refused_wherever_they_are(tmp_path: Path) -> None:
    data = encoded(noise())
    (tmp_path / "a.png").write_bytes(data)
    small = Policy(folders=(tmp_path,), max_bytes=100)
    for source in (data, data_uri(data), "a.png", tmp_path / "a.png"):
        with pytest.raises(InputError, match=r"more than the 100 allowed.*PGMEANING_MEDIA_MAX_BYTES"):
            read_image(source, small)


def test_an_error_shows_no_more_than_the_beginning_of_a_source() -> None:
    with pytest.raises(InputError) as long:
        read_image("x" * 100_000)
    assert len(str(long.value)) < 300


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_whatever_is_wrong_with_a_file_is_an_input_error(format: str) -> None:
    whole = encoded(noise((40, 30)), format)
    random = Random(format)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(random.randint(1, 8)):
            data[random.randrange(min(len(data), random.choice((64, len(data)))))] = random.randrange(256)
        for read in (read_image, image_size, fetch_image):
            with contextlib.suppress(InputError):
                read(bytes(data))


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder with an image in it, and one beside it."""
    (allowed := tmp_path / "allowed").mkdir()
    (allowed / "below").mkdir()
    for place in (allowed / "a.png", allowed / "below" / "b.png", tmp_path / "secret.png"):
        place.write_bytes(encoded(plain_image(GREEN)))
    return allowed


def test_files_below_an_allowed_folder_are_read_by_full_and_relative_path(folder: Path) -> None:
    policy = Policy(folders=(folder.parent / "nowhere", folder))
    for source in ("a.png", "below/b.png", folder / "a.png", (folder / "below" / "b.png").as_uri()):
        assert corner(source, policy) == GREEN


def test_no_file_is_read_by_default(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no folder is allowed.*PGMEANING_MEDIA_FOLDERS"):
        read_image(folder / "a.png", Policy())


@pytest.mark.parametrize("source", ["../secret.png", "below/../../secret.png", "{parent}/secret.png", "/etc/passwd"])
def test_a_file_outside_is_refused(folder: Path, source: str) -> None:
    with pytest.raises(InputError, match=r"'\.\.'|not below an allowed folder"):
        read_image(source.format(parent=folder.parent), Policy(folders=(folder,)))


def test_a_folder_whose_name_only_begins_alike_is_outside(folder: Path) -> None:
    (other := folder.with_name("allowed-not")).mkdir()
    (other / "a.png").write_bytes(encoded())
    with pytest.raises(InputError, match="not below"):
        read_image(other / "a.png", Policy(folders=(folder,)))


def test_a_link_that_leads_out_is_refused_and_one_within_is_followed(folder: Path) -> None:
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "way-out").symlink_to(folder.parent)
    (folder / "within.png").symlink_to("below/b.png")
    policy = Policy(folders=(folder,))
    for source in ("out.png", "way-out/secret.png", folder / "out.png"):
        with pytest.raises(InputError, match="not below"):
            read_image(source, policy)
    assert corner("within.png", policy) == GREEN


def test_a_link_put_there_after_the_check_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(folders=(folder,))
    (folder / "late.png").symlink_to(folder.parent / "secret.png")
    monkeypatch.setattr(os.path, "realpath", lambda path: str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_image("late.png", policy)


def test_an_allowed_folder_may_itself_be_a_link(folder: Path) -> None:
    (link := folder.with_name("link")).symlink_to(folder)
    assert corner("a.png", Policy(folders=(link,))) == GREEN
    assert corner(folder / "a.png", Policy(folders=(link,))) == GREEN


@pytest.mark.parametrize("trusted", [True, False])
def test_only_regular_files_are_read(folder: Path, trusted: bool) -> None:
    os.mkfifo(folder / "fifo")
    policy = TRUSTED if trusted else Policy(folders=(folder,))
    for source in (folder / "fifo", folder / "below", folder):
        with pytest.raises(InputError, match=r"not a regular file|directory"):
            read_image(source, policy)


@pytest.mark.parametrize("source", ["nothing.png", "a\0b.png", "a.png/b", "x" * 5000, ""])
def test_a_file_that_is_not_there_is_refused(folder: Path, source: str) -> None:
    for policy in (TRUSTED, Policy(folders=(folder,))):
        with pytest.raises(InputError):
            read_image(source, policy)


def test_the_applications_own_code_may_name_any_file(folder: Path) -> None:
    assert corner(folder.parent / "secret.png") == GREEN
    assert corner(str(folder / ".." / "secret.png")) == GREEN


@pytest.mark.parametrize("url", ["ftp://host/a.png", "s3://bucket/a.png", "gopher://host/"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        read_image(url, Policy(hosts=("*",), any_folder=True))
