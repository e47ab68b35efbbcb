"""Reads videos as models take them: one RGB frame per second, at most 64, evenly spaced."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.media.animations import Animation, animation
from pgmeaning.media.images import fetch_image, opened, plain, read_image
from pgmeaning.media.pixels import Pixels, decoding
from pgmeaning.media.policy import TRUSTED, Checked, Policy, policy_for
from pgmeaning.media.sources import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Demuxers that read only the file itself. A playlist (HLS, DASH, concat) could name other files and URLs.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
# Decoders that are used and tested everywhere; FFmpeg has hundreds of others.
CODECS = frozenset({
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "theora", "prores", "dnxhd",
    "h263", "flv1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1", "rawvideo",
})  # fmt: skip
FASTEST = 240  # frames a second
MIN_FRAMES, STEP = 4, 2  # as in qwen-vl-utils, so that vectors equal the published ones
# For all frames together; beyond it, they are shrunk. 64 frames in full HD keep their size.
FRAME_PIXELS = 64 * 1920 * 1088


@dataclass(frozen=True)
class Video:
    """Frames of a video, RGB and upright; `fps` is the number taken per second, `timestamps` are in seconds."""

    frames: tuple[Image, ...]
    timestamps: tuple[float, ...]
    fps: float


def read_video(
    source: Any, policy: Policy = TRUSTED, fps: float = 1.0, max_frames: int = 64, at_most: int | None = None
) -> Video:  # fmt: skip
    """One frame per second (at least 4 if it has them), but at most 64, evenly spaced over a longer video.

    `source` is bytes, a path, a data URI or an http(s) URL of a video or an animation; a list of images, which are
    frames at one per second; or a Video, which is returned as it is. Raises InputError for anything else. Frames that
    have more than `at_most` pixels together are reduced, by a whole number on each side.
    """
    if isinstance(source, Video):
        return source
    taken = _Taken(policy_for(source, policy), fps, max_frames, at_most)
    if isinstance(source, list | tuple):
        return _from_images(source, taken)
    data = read_bytes(source, taken.policy)
    found = _animation(data, taken.policy)
    return _from_container(data, taken) if found is None else _from_animation(data, found, taken)


def fetch_video(
    source: Any, policy: Policy = TRUSTED, pixels: Pixels | None = None
) -> bytes | Video | tuple[bytes | Image, ...]:
    """The video, still encoded, after its header, size and length were checked; raises InputError.

    The images of a list are checked one by one. `pixels` is what the row may still cost.
    """
    pixels = pixels or Pixels(policy)
    if isinstance(source, Video):
        return source
    if isinstance(source, list | tuple):
        _check_count(source, policy)
        return tuple(fetch_image(image, policy, pixels) for image in source)
    data = read_bytes(source, policy)
    if (found := _animation(data, policy)) is not None:
        _charge(found, pixels)
    else:
        with _container(data, policy) as container:
            _measured(container, policy, pixels)
    return Checked(data, policy)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What to take of a video."""

    policy: Policy
    fps: float
    max_frames: int
    at_most: int | None

    def places(self, total: int, duration: float) -> list[int]:
        """The numbers of the frames."""
        return sampled(total, total / duration, self.fps, self.max_frames)

    def each(self, count: int) -> int:
        """The most pixels of one of so many frames."""
        return max(1, min(FRAME_PIXELS, self.at_most or FRAME_PIXELS) // count)


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


def _from_images(source: Sequence[Any], taken: _Taken) -> Video:
    _check_count(source, taken.policy)
    long = len(source) > taken.max_frames
    places = taken.places(len(source), len(source)) if long else range(len(source))
    pixels = Pixels(taken.policy)
    frames = []
    for place in places:
        frame = read_image(source[place], taken.policy, taken.at_most and taken.each(len(places)))
        pixels.charge(frame.width * frame.height)
        frames.append(_shrunk(frame, len(places)))
    if len({frame.size for frame in frames}) > 1:
        raise InputError("the images of a video differ in size", hint="give all of its frames the same size")
    return _video(frames, [float(place) for place in places], len(source))


def _check_count(source: Sequence[Any], policy: Policy) -> None:
    if not source:
        raise InputError("a video is an empty list of images")
    if len(source) > policy.max_seconds:
        raise _too_long(f"a video of {len(source)} images, at one per second,", policy)


# ---------------------------------------------------------------- an animation


def _animation(data: bytes, policy: Policy) -> Animation | None:
    """The animation, if it is one that the policy allows; raises InputError for a still image."""
    most = _most_frames(policy)
    try:
        format = opened(data).format
        found = animation(data, most)
    except Exception:
        return None
    if found is None:
        raise InputError(f"a {format} image is not a video", hint="give it as an image, or in a list as a video")
    if found.pixels > policy.max_pixels:
        raise InputError(
            f"an animation has {found.pixels:,} pixels a frame, more than the {policy.max_pixels:,} allowed",
            hint="PGMEANING_MEDIA_MAX_PIXELS allows more",
        )
    if found.frames > most or (found.seconds is not None and sum(found.seconds) > policy.max_seconds):
        raise _too_long("an animation", policy)
    return found


def _charge(found: Animation, pixels: Pixels) -> None:
    """Each frame is drawn on the whole canvas; where only decoding tells how long they are, twice."""
    pixels.charge(found.pixels * found.frames * (1 if found.seconds is not None else 2))


def _from_animation(data: bytes, found: Animation, taken: _Taken) -> Video:
    _charge(found, Pixels(taken.policy))
    try:
        with decoding(found.pixels):
            seconds = found.seconds or _decoded_seconds(found.image, taken.policy)
            wanted = taken.places(len(seconds), sum(seconds))
            frames = list(_frames(found.image, wanted, taken))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"an animation cannot be decoded: {error}") from error
    return _video(frames, [sum(seconds[:place]) for place in wanted], sum(seconds))


def _frames(image: Image, wanted: Sequence[int], taken: _Taken) -> Iterator[Image]:
    """One after the other: of each canvas no more is kept than what the model reads."""
    for place in wanted:
        image.seek(place)
        image.load()
        frame = plain(image, taken.at_most and taken.each(len(wanted)))
        yield _shrunk(frame.copy() if frame is image else frame, len(wanted))


def _decoded_seconds(image: Image, policy: Policy) -> list[float]:
    seconds: list[float] = []
    for place in range(getattr(image, "n_frames", 1)):
        image.seek(place)
        image.load()
        seconds.append((image.info.get("duration") or 100) / 1000)
        if sum(seconds) > policy.max_seconds:
            raise _too_long("an animation", policy)
    return seconds


def _most_frames(policy: Policy) -> int:
    return int(FASTEST * policy.max_seconds)


# ---------------------------------------------------------------- a video file


@contextmanager
def _container(data: bytes, policy: Policy) -> Iterator[Any]:
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
            for stream in container.streams.video[:1]:
                _check_codec(stream)
                # Also where the size changes midway: the decoder allocates a frame before anybody sees it.
                stream.codec_context.options = {"max_pixels": str(policy.max_pixels)}
            yield container
    except InputError:
        raise
    except Exception as error:  # whatever FFmpeg raises for a broken file
        raise InputError(
            f"a video cannot be decoded: {getattr(error, 'strerror', None) or error}",
            hint="MP4, MOV, WebM, Matroska, AVI and MPEG can be read",
        ) from error


def _check_codec(stream: Any) -> None:
    if stream.codec_context is None or stream.codec_context.codec.canonical_name not in CODECS:
        name = getattr(getattr(stream, "codec_context", None), "name", None)
        raise InputError(
            f"a video has a codec that is not supported here{f': {name}' if name else ''}",
            hint="H.264, HEVC, AV1, VP9, VP8, MPEG-4 and the like are",
        )


def _measured(container: Any, policy: Policy, pixels: Pixels) -> tuple[int, float]:
    """The number of frames and their seconds, counted from the packets: headers may be empty or wrong."""
    if not container.streams.video:
        raise InputError("a video has no images in it, only sound or subtitles")
    stream = container.streams.video[0]
    if not stream.width or not stream.height:
        raise InputError("a video has no pixels")
    if stream.width * stream.height > policy.max_pixels:
        raise InputError(
            f"a video is {stream.width} x {stream.height}, more than the {policy.max_pixels:,} pixels allowed",
            hint="PGMEANING_MEDIA_MAX_PIXELS allows more",
        )
    times = list(_times(container, stream, policy, pixels))
    if not times:
        raise InputError("a video has no frames")
    step = 1 / (stream.average_rate or 25)
    duration = float(max(times) - min(times) + step)
    if duration > policy.max_seconds:
        raise _too_long(f"a video of {duration:.0f} seconds", policy)
    return len(times), duration


def _times(container: Any, stream: Any, policy: Policy, pixels: Pixels) -> Iterator[Any]:
    """The times of the packets, each of which is charged as a frame."""
    for count, packet in enumerate(container.demux(stream), start=1):
        if count > _most_frames(policy):
            raise _too_long(f"a video of {count:,} frames", policy)
        pixels.charge_video(stream.width * stream.height if packet.size else 0)
        if packet.pts is not None:
            yield packet.pts * packet.time_base


def _from_container(data: bytes, taken: _Taken) -> Video:
    with _container(data, taken.policy) as container:
        total, duration = _measured(container, taken.policy, Pixels(taken.policy))
    wanted = taken.places(total, duration)
    with _container(data, taken.policy) as container:
        found = list(_decoded(container, wanted, taken))
    if not found:
        raise InputError("a video has no frames that can be decoded")
    frames, seconds = zip(*found, strict=True)
    return _video(frames, seconds, duration)


def _decoded(container: Any, wanted: Sequence[int], taken: _Taken) -> Iterator[tuple[Image, float]]:
    numbers, pixels = set(wanted), Pixels(taken.policy)
    for number, frame in enumerate(container.decode(video=0)):
        pixels.charge_video(frame.width * frame.height)  # what the header said may have been wrong
        if frame.width * frame.height > taken.policy.max_pixels:
            raise InputError(f"a frame of a video is {frame.width} x {frame.height}, more than is allowed")
        if number in numbers:
            with decoding(frame.width * frame.height):
                image = plain(_turned(frame), taken.at_most and taken.each(len(wanted)))
            yield _shrunk(image, len(wanted)), float(frame.time or 0)
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
