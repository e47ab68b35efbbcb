"""Videos: which frames are taken of what, and what is refused."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from pgmeaning.errors import InputError
from pgmeaning.media import TRUSTED, Policy, Video, fetch_video, read_video
from pgmeaning.media.videos import sampled
from tests.images import BLUE, GREEN, RED, animation, data_uri, encoded, noise, plain_image, video
from tests.needs import needs_package


def brightness(read: Video) -> list[int]:
    return [int(frame.convert("L").getpixel((5, 5)) or 0) for frame in read.frames]  # type: ignore[arg-type]


def test_one_frame_a_second_is_taken_from_the_first_to_the_last() -> None:
    read = read_video(video(frames=100, rate=10))
    assert len(read.frames) == 10
    assert read.timestamps[0] == 0
    assert read.timestamps[-1] == pytest.approx(9.9)
    assert read.fps == pytest.approx(1.0)
    assert brightness(read) == sorted(brightness(read))
    assert all((frame.mode, frame.size) == ("RGB", (64, 48)) for frame in read.frames)


def test_a_long_video_gives_64_evenly_spread_frames() -> None:
    read = read_video(video(frames=200, rate=1))
    assert len(read.frames) == 64
    assert read.timestamps[-1] == pytest.approx(199)
    gaps = [later - earlier for earlier, later in zip(read.timestamps, read.timestamps[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1
    assert read.fps == pytest.approx(64 / 200)


def test_a_short_video_gives_four_frames_where_it_has_them() -> None:
    assert len(read_video(video(frames=10, rate=10)).frames) == 4
    assert len(read_video(video(frames=3, rate=10)).frames) == 2
    assert len(read_video(video(frames=1, rate=10)).frames) == 1


@pytest.mark.parametrize("total", [2, 3, 7, 60, 61, 130, 1799, 5000])
@pytest.mark.parametrize("rate", [1.0, 10.0, 25.0, 29.97])
def test_frames_are_chosen_as_qwen_vl_utils_chooses_them(total: int, rate: float) -> None:
    reference = needs_package("qwen_vl_utils.vision_process", "qwen")
    torch = needs_package("torch", "local")
    logging.getLogger(reference.__name__).setLevel(logging.ERROR)
    count = reference.smart_nframes({"fps": 1.0, "max_frames": min(64, total)}, total, rate)
    assert sampled(total, rate, 1.0, 64) == torch.linspace(0, total - 1, count).round().long().tolist()


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx"), ("mpegts", "mpeg2video")],
)
def test_common_containers_are_read(format: str, codec: str) -> None:
    read = read_video(video(frames=50, rate=25, format=format, codec=codec))
    assert len(read.frames) == 4
    assert brightness(read)[0] < 40 < 180 < brightness(read)[-1]


def test_a_title_that_is_no_utf_8_does_no_harm() -> None:
    data = video(title="caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert b"caf\xc3\xa9" in data
    assert len(read_video(data.replace(b"caf\xc3\xa9", b"caf\xe9 ")).frames) == 4


def test_every_kind_of_source_is_the_same_video(tmp_path: Path) -> None:
    (file := tmp_path / "a.mp4").write_bytes(data := video())
    wanted = read_video(data)
    for source in (file, str(file), data_uri(data, "video/mp4"), memoryview(data), wanted):
        assert brightness(read_video(source)) == brightness(wanted)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video_of_its_frames(format: str) -> None:
    read = read_video(animation([RED, GREEN, BLUE, RED, GREEN, BLUE], format))
    assert [frame.size for frame in read.frames] == [(24, 16)] * 6
    assert read.timestamps == (0, 1, 2, 3, 4, 5)
    assert read.fps == 1
    colors = [frame.getpixel((3, 3)) for frame in read.frames]
    for color, wanted in zip(colors, [RED, GREEN, BLUE] * 2, strict=True):
        assert isinstance(color, tuple)
        assert color == pytest.approx(wanted, abs=6)


def test_a_list_of_images_is_a_video_of_one_frame_a_second() -> None:
    read = read_video([plain_image(RED), encoded(plain_image(GREEN)), data_uri(encoded(plain_image(BLUE)))])
    assert [frame.getpixel((0, 0)) for frame in read.frames] == [RED, GREEN, BLUE]
    assert read.timestamps == (0, 1, 2)
    assert read.fps == 1
    many = read_video([plain_image((number, 0, 0)) for number in range(200)])
    assert len(many.frames) == 64
    assert many.timestamps[-1] == 199


def test_a_phones_video_comes_upright() -> None:
    # The track's header holds a matrix; this one turns by 90 degrees clockwise, so that what was above is on the right.
    straight = struct.pack("!9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack("!9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    head, track, rest = video(frames=4, bright_top=True).partition(b"tkhd")
    assert straight in rest
    first = read_video(head + track + rest.replace(straight, turned, 1)).frames[0].convert("L")
    assert first.size == (48, 64)
    assert first.getpixel((4, 32)) == pytest.approx(20, abs=9)
    assert first.getpixel((44, 32)) == pytest.approx(235, abs=9)


def test_frames_too_large_to_be_held_together_are_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgmeaning.media.videos.FRAME_PIXELS", 4 * 32 * 24)
    assert {frame.size for frame in read_video(video(frames=10)).frames} == {(32, 24)}


def test_fetching_hands_back_the_very_bytes() -> None:
    assert fetch_video(video()) == video()
    assert fetch_video(animation([RED, BLUE])) == animation([RED, BLUE])
    assert fetch_video([encoded(), encoded()]) == (encoded(), encoded())


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7",
        b"just text",
        b"<html></html>",
        video()[:300],
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
        b"\x1aE\xdf\xa3 and no more",
    ],
)
def test_what_is_no_video_is_refused(data: bytes) -> None:
    for read in (read_video, fetch_video):
        with pytest.raises(InputError):
            read(data)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(video(format="mpegts", codec="mpeg2video"))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:3,\n{tmp_path}/a.ts\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{tmp_path}/a.ts'\n",
    ):
        (tmp_path / "list.m3u8").write_text(text)
        with pytest.raises(InputError):
            read_video(tmp_path / "list.m3u8")


def test_a_still_image_is_no_video_and_says_so() -> None:
    with pytest.raises(InputError, match="a PNG image is not a video"):
        read_video(encoded())


def test_a_video_without_images_is_refused() -> None:
    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="no images in it"):
        read_video(buffer.getvalue())


@pytest.mark.parametrize("source", [video(frames=31), animation([RED, GREEN, BLUE, RED]), [plain_image()] * 4])
def test_a_video_longer_than_allowed_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match=r"longer than the 3 seconds allowed.*PGMEANING_MEDIA_MAX_SECONDS"):
        read_video(source, Policy(max_seconds=3))


def test_frames_with_more_pixels_than_allowed_are_refused() -> None:
    for source in (video(), animation([RED, BLUE]), [noise()]):
        with pytest.raises(InputError, match="pixels"):
            read_video(source, Policy(max_pixels=300))
    with pytest.raises(InputError, match="pixels"):
        fetch_video(video(), Policy(max_pixels=300))


def test_more_bytes_than_allowed_are_refused() -> None:
    with pytest.raises(InputError, match="more than the 100 allowed"):
        read_video(video(), Policy(max_bytes=100))


@pytest.mark.parametrize("source", [None, 7, {"url": "x"}, []])
def test_other_types_are_refused(source: Any) -> None:
    for read in (read_video, fetch_video):
        with pytest.raises(InputError):
            read(source, TRUSTED)


def test_frames_of_different_sizes_are_no_video() -> None:
    with pytest.raises(InputError, match="differ in size"):
        read_video([plain_image(), Image.new("RGB", (5, 5))])


def test_what_is_cut_off_within_its_frames_is_read_as_far_as_it_goes() -> None:
    data = video(frames=60, format="matroska")
    read = read_video(data[: len(data) // 2])
    assert 1 <= len(read.frames) <= 4


@pytest.mark.parametrize(("format", "codec"), [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4")])
def test_whatever_is_wrong_with_a_file_is_an_input_error(format: str, codec: str) -> None:
    whole = video(frames=8, format=format, codec=codec)
    random = Random(format)
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(random.randint(1, 8)):
            data[random.randrange(min(len(data), random.choice((400, len(data)))))] = random.randrange(256)
        for read in (read_video, fetch_video):
            with contextlib.suppress(InputError):
                read(bytes(data), Policy(max_pixels=100_000))
