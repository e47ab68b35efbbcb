"""Reads videos as models take them: one RGB frame per second, at most 64, evenly spaced."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.media.images import fetch_image, image_size, opened, read_image
from pgmeaning.media.policy import TRUSTED, Policy
from pgmeaning.media.sources import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Demuxers that read only the file itself. A playlist (HLS, DASH, concat) could name other files and URLs.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
MIN_FRAMES, STEP = 4, 2  # as in qwen-vl-utils, so that vectors equal the published ones
# For all frames together; beyond it, they are shrunk. 64 frames in full HD keep their size.
FRAME_PIXELS = 64 * 1920 * 1088


@dataclass(frozen=True)
class Video:
    """Frames of a video, RGB and upright; `fps` is the number taken per second, `timestamps` are in seconds."""

    frames: tuple[Image, ...]
    timestamps: tuple[float, ...]
    fps: float


def read_video(source: Any, policy: Policy = TRUSTED, fps: float = 1.0, max_frames: int = 64) -> Video:
    """One frame per second (at least 4 if it has them), but at most 64, evenly spaced over a longer video.

    `source` is bytes, a path, a data URI or an http(s) URL of a video or an animation; a list of images, which are
    frames at one per second; or a Video, which is returned as it is. Raises InputError for anything else.
    """
    if isinstance(source, Video):
        return source
    if isinstance(source, list | tuple):
        return _from_images(source, policy, fps, max_frames)
    data = read_bytes(source, policy)
    return _from_animation(data, policy, fps, max_frames) or _from_container(data, policy, fps, max_frames)


def fetch_video(source: Any, policy: Policy = TRUSTED) -> bytes | Video | tuple[bytes | Image, ...]:
    """The video, still encoded, after its header, size and length were checked; raises InputError.

    The images of a list are checked one by one.
    """
    if isinstance(source, Video):
        return source
    if isinstance(source, list | tuple):
        _check_count(source, policy)
        return tuple(fetch_image(image, policy) for image in source)
    data = read_bytes(source, policy)
    if _animation(data) is None:
        with _container(data) as container:
            _measured(container, policy)
    return data


# ---------------------------------------------------------------- which frames


def sampled(total: int, frames_per_second: float, fps: float, max_frames: int) -> list[int]:
    """The numbers of the frames to take, evenly spaced from the first to the last."""
    wanted = min(max(total / frames_per_second * fps, MIN_FRAMES), max_frames, total)
    count = max(1, int(wanted) // STEP * STEP)
    return [round(place * (total - 1) / max(count - 1, 1)) for place in range(count)]


def _video(frames: Sequence[Image], seconds: Sequence[float], duration: float) -> Video:
    return Video(tuple(frames), tuple(seconds), len(frames) / duration if duration > 0 else 1.0)


def _shrunk(image: Image, count: int) -> Image:
    """A frame, made smaller if `count` frames of its size would take too much memory."""
    excess = image.width * image.height * count / FRAME_PIXELS
    if excess <= 1:
        return image
    return image.resize((max(1, int(image.width / excess**0.5)), max(1, int(image.height / excess**0.5))))


# ---------------------------------------------------------------- a list of images


def _from_images(source: Sequence[Any], policy: Policy, fps: float, max_frames: int) -> Video:
    _check_count(source, policy)
    places = sampled(len(source), 1.0, fps, max_frames) if len(source) > max_frames else range(len(source))
    frames = [_shrunk(read_image(source[place], policy), len(places)) for place in places]
    if len({frame.size for frame in frames}) > 1:
        raise InputError("the images of a video differ in size", hint="give all of its frames the same size")
    return _video(frames, [float(place) for place in places], len(source))


def _check_count(source: Sequence[Any], policy: Policy) -> None:
    if not source:
        raise InputError("a video is an empty list of images")
    if len(source) > policy.max_seconds:
        raise _too_long(f"a video of {len(source)} images, at one per second,", policy)


# ---------------------------------------------------------------- an animation


def _animation(data: bytes) -> Image | None:
    """The animation, if it is one; raises InputError for a still image."""
    try:
        image = opened(data)
        frames = getattr(image, "n_frames", 1)
    except Exception:
        return None
    if frames > 1 and image.format in ("GIF", "WEBP", "PNG", "AVIF"):
        return image
    raise InputError(f"a {image.format} image is not a video", hint="give it as an image, or in a list as a video")


def _from_animation(data: bytes, policy: Policy, fps: float, max_frames: int) -> Video | None:
    image = _animation(data)
    if image is None:
        return None
    image_size(data, policy)
    try:
        starts, duration = _starts(image, policy)
        places = sampled(len(starts), len(starts) / duration, fps, max_frames)
        frames = [_shrunk(_frame(image, place, policy), len(places)) for place in places]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"an animation cannot be decoded: {error}") from error
    return _video(frames, [starts[place] for place in places], duration)


def _starts(image: Image, policy: Policy) -> tuple[list[float], float]:
    """The second at which each frame appears, and the second at which the last one ends."""
    starts, end = [], 0.0
    for place in range(getattr(image, "n_frames", 1)):
        image.seek(place)
        image.load()
        starts.append(end)
        end += (image.info.get("duration") or 100) / 1000
        if end > policy.max_seconds:
            raise _too_long("an animation", policy)
    return starts, end


def _frame(image: Image, place: int, policy: Policy) -> Image:
    image.seek(place)
    return read_image(image.copy(), policy)


# ---------------------------------------------------------------- a video file


@contextmanager
def _container(data: bytes) -> Iterator[Any]:
    """The opened file; anything that goes wrong inside raises InputError."""
    try:
        import av
    except ImportError as error:
        raise ModelUnavailable(
            "videos need PyAV, which is not installed", hint="pip install 'pgmeaning[media]'"
        ) from error
    try:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
        with av.open(io.BytesIO(data), options=options, metadata_errors="replace") as container:
            yield container
    except InputError:
        raise
    except Exception as error:  # whatever FFmpeg raises for a broken file
        raise InputError(
            f"a video cannot be decoded: {getattr(error, 'strerror', None) or error}",
            hint="MP4, MOV, WebM, Matroska, AVI and MPEG can be read",
        ) from error


def _measured(container: Any, policy: Policy) -> tuple[int, float]:
    """The number of frames and their seconds, counted from the packets: headers may be empty or wrong."""
    if not container.streams.video:
        raise InputError("a video has no images in it, only sound or subtitles")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise InputError("a video has a codec that is not supported here")
    if not stream.width or not stream.height:
        raise InputError("a video has no pixels")
    if stream.width * stream.height > policy.max_pixels:
        raise InputError(
            f"a video is {stream.width} x {stream.height}, more than the {policy.max_pixels:,} pixels allowed",
            hint="PGMEANING_MEDIA_MAX_PIXELS allows more",
        )
    times = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.pts is not None]
    if not times:
        raise InputError("a video has no frames")
    step = 1 / (stream.average_rate or 25)
    duration = float(max(times) - min(times) + step)
    if duration > policy.max_seconds or len(times) > 240 * policy.max_seconds:
        raise _too_long(f"a video of {duration:.0f} seconds", policy)
    return len(times), duration


def _from_container(data: bytes, policy: Policy, fps: float, max_frames: int) -> Video:
    with _container(data) as container:
        total, duration = _measured(container, policy)
    wanted = sampled(total, total / duration, fps, max_frames)
    with _container(data) as container:
        taken = list(_decoded(container, wanted, policy))
    if not taken:
        raise InputError("a video has no frames that can be decoded")
    frames, seconds = zip(*taken, strict=True)
    return _video(frames, seconds, duration)


def _decoded(container: Any, wanted: Sequence[int], policy: Policy) -> Iterator[tuple[Image, float]]:
    numbers = set(wanted)
    for number, frame in enumerate(container.decode(video=0)):
        if frame.width * frame.height > policy.max_pixels:
            raise InputError(f"a frame of a video is {frame.width} x {frame.height}, more than is allowed")
        if number in numbers:
            yield _shrunk(_turned(frame), len(wanted)), float(frame.time or 0)
        if number >= wanted[-1]:
            return


def _turned(frame: Any) -> Image:
    image: Image = frame.to_image()
    rotation = round(getattr(frame, "rotation", 0) / 90) * 90 % 360
    return image.rotate(rotation, expand=True) if rotation else image


def _too_long(what: str, policy: Policy) -> InputError:
    return InputError(
        f"{what} is longer than the {policy.max_seconds:g} seconds allowed",
        hint="PGMEANING_MEDIA_MAX_SECONDS allows more",
    )
