"""Images and videos as Qwen3-VL takes them: resized by qwen-vl-utils, cut up by the checkpoint's processor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmeaning import media
from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.types import Document

# Both sides of a patch, and how many patches of each side are merged into one token.
PATCH, MERGED = 16, 2
# An image of so many times the pixels that the model reads is reduced as it is decoded, to no less than a quarter of
# that: far above what the model's own resizing can tell apart.
AMPLE = 16
START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True, slots=True)
class Visual:
    """One image or video as the network takes it, and what the text says where it stands.

    `pixels`: of an image uint8 [3, height, width], which the device cuts up; else patches float32 [n, 3 * 2 * 16 * 16].
    `grid`: pairs of frames, rows and columns of patches.
    """

    pixels: Tensor
    grid: tuple[int, int, int]
    placeholder: str
    scale: tuple[tuple[float, ...], tuple[float, ...]] = (), ()  # what to subtract from, and divide, each channel by

    @property
    def tokens(self) -> int:
        """How many it takes in the prompt."""
        return prod(self.grid) // MERGED**2

    def patches(self, device: Any) -> Tensor:
        """float32 [n, 3 * 2 * 16 * 16] on the device: those of a token's square together."""
        if self.pixels.ndim == 2:
            return on_device(self.pixels, device)
        return cut_up(on_device(self.pixels, device), *self.scale)


class Vision:
    """Prepares images and videos; the libraries it takes are imported with the first."""

    def __init__(self, load_processor: Callable[[], Any], options: Any) -> None:
        self._load_processor = load_processor
        self._loading = threading.Lock()
        self._loaded: Any = None
        self._pixels = {key: int(options[key]) for key in ("min_pixels", "max_pixels") if key in options}
        self._total_pixels = int(options.get("video_total_pixels", 7_864_320))
        self._fps = float(options.get("video_fps", 1))
        self._max_frames = int(options.get("video_max_frames", 64))

    def image(self, source: Any) -> Visual:
        """Raises InputError for what is no image."""
        image = self._resized(media.read_image(source, at_most=self._ample))
        rows, columns = image.height // PATCH, image.width // PATCH
        pixels = _stacked([image])[0]
        return Visual(pixels, (1, rows, columns), START + IMAGE * (rows * columns // MERGED**2) + END, self._scale)

    def video(self, source: Any) -> Visual:
        """Raises InputError for what is no video."""
        processor = self._processor
        ample = AMPLE * 2 * self._total_pixels  # that total is of pairs of frames
        video = media.read_video(source, fps=self._fps, max_frames=self._max_frames, at_most=ample)
        try:
            frames = self._frames(list(video.frames), listed=isinstance(source, list | tuple))
        except (ValueError, RuntimeError) as error:  # an odd shape; a list of images of several sizes
            raise InputError(f"a video of {len(video.frames)} frames cannot be embedded: {error}") from error
        found = processor.video_processor(
            videos=[frames], do_resize=False, do_sample_frames=False, cap_pixels_per_frame=True, return_metadata=False,
            return_tensors="pt",
        )  # fmt: skip
        pairs, height, width = found["video_grid_thw"][0].tolist()
        grid = pairs, height, width
        return Visual(found["pixel_values_videos"], grid, _timed(grid, video.timestamps))

    def media_tokens(self, document: Document) -> int:
        """The tokens of a document's images, and the most that its videos can have."""
        images = sum(self.image_tokens(image) for image in document.images)
        return images + sum(self.video_tokens(video) for video in document.videos)

    def image_tokens(self, source: Any) -> int:
        """How many tokens an image takes, its markers included; from its header."""
        width, height = media.image_size(source)
        try:
            rows, columns = _reference().smart_resize(height, width, PATCH * MERGED, **self._pixels)
        except ValueError as error:
            raise _wrong_shape(width, height, error) from error
        return 2 + int(rows * columns) // (PATCH * MERGED) ** 2

    def video_tokens(self, source: Any) -> int:
        """About how many tokens a video takes: the most that it can."""
        return self._total_pixels // (PATCH * MERGED) ** 2

    def _resized(self, image: Any) -> Any:
        try:
            return _reference().fetch_image({"image": image, **self._pixels}, image_patch_size=PATCH)
        except ValueError as error:
            raise _wrong_shape(image.width, image.height, error) from error

    def _frames(self, frames: list[Any], listed: bool) -> Any:
        """uint8 frames [t, 3, h, w] at their final size, an even number of them.

        For a list of images qwen-vl-utils resizes each of them by itself first, for a file it does not.
        """
        reference = _reference()
        from torchvision.transforms import InterpolationMode, functional

        if listed:
            wanted = {"video": frames, "total_pixels": self._total_pixels, "sample_fps": self._fps}
            return reference.fetch_video(wanted, image_patch_size=PATCH)
        frames += frames[-1:] * (-len(frames) % 2)
        factor = PATCH * MERGED
        least, most = (tokens * factor**2 for tokens in (reference.VIDEO_MIN_TOKEN_NUM, reference.VIDEO_MAX_TOKEN_NUM))
        most = max(min(most, self._total_pixels / len(frames) * 2), int(least * 1.05))
        size = reference.smart_resize(frames[0].height, frames[0].width, factor, min_pixels=least, max_pixels=most)
        bicubic = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
        # One by one: a copy of all frames at their own size would take as much memory as they do.
        return torch.stack([functional.resize(_tensor(frame), list(size), **bicubic) for frame in frames]).float()

    @property
    def _ample(self) -> int | None:
        most = self._pixels.get("max_pixels")
        return None if most is None else AMPLE * most

    @property
    def _processor(self) -> Any:
        with self._loading:
            if self._loaded is None:
                _reference()
                self._loaded = self._load_processor()
            return self._loaded

    @cached_property
    def _scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The checkpoint's mean and deviation of each channel, for numbers 0 to 255; raises ModelUnavailable."""
        settings = self._processor.image_processor
        shape = settings.patch_size, settings.temporal_patch_size, settings.merge_size
        if shape != (PATCH, 2, MERGED) or not (settings.do_rescale and settings.do_normalize):
            raise ModelUnavailable(
                "its image processor is not Qwen3-VL's: patches of 16 x 16 x 2, merged 2 x 2, rescaled and normalised",
                hint="fetch the checkpoint anew",
            )
        whole = 1 / settings.rescale_factor
        return tuple(part * whole for part in settings.image_mean), tuple(part * whole for part in settings.image_std)


def _reference() -> Any:
    """qwen-vl-utils, which text does without; raises ModelUnavailable where it, or torchvision, is missing."""
    try:
        from qwen_vl_utils import vision_process
    except ImportError as error:
        raise ModelUnavailable(
            f"images and video cannot be embedded here: {error}", hint="pip install 'pgmeaning[qwen]'"
        ) from error
    return vision_process


def _wrong_shape(width: int, height: int, error: ValueError) -> InputError:
    return InputError(f"an image of {width} x {height} pixels cannot be embedded: {error}")


def _stacked(frames: Sequence[Any]) -> Tensor:
    return torch.stack([_tensor(frame) for frame in frames])


def _tensor(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image).transpose(2, 0, 1))


def on_device(tensor: Tensor, device: Any) -> Tensor:
    """The tensor there; to a GPU from pinned memory, so that nobody waits for the copy."""
    if getattr(device, "type", device) != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def cut_up(pixels: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """float32 patches of an image uint8 [3, height, width], in the processor's order; its one frame counts twice."""
    center, spread = (_by_channel(part, pixels.device) for part in (mean, deviation))
    channels, height, width = pixels.shape
    side = PATCH * MERGED
    squares = ((pixels.float() - center) / spread).reshape(
        channels, height // side, MERGED, PATCH, width // side, MERGED, PATCH
    )
    ordered = squares.permute(1, 4, 2, 5, 0, 3, 6)[..., None, :, :]
    return ordered.expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, channels * 2 * PATCH**2)


@lru_cache(maxsize=16)
def _by_channel(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept on the device: to copy a number there is to wait for all that runs."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)[:, None, None]


def _timed(grid: Sequence[int], timestamps: Sequence[float]) -> str:
    """Each pair of frames behind the middle of its two times, as the processor writes it; no markers outside."""
    pairs, rows, columns = grid
    times = [*timestamps, *[timestamps[-1]] * (2 * pairs - len(timestamps))]
    run = START + VIDEO * (rows * columns // MERGED**2) + END
    return "".join(f"<{(times[2 * pair] + times[2 * pair + 1]) / 2:.1f} seconds>" + run for pair in range(pairs))
