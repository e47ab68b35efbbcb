"""Few tokens on a GPU: the launch of 36 layers, recorded once and replayed as one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgmeaning.models.qwen3_vl.packing import Packed
from pgmeaning.models.qwen3_vl.vision import on_device

# A graph's tokens are so many; behind the prompts they are filled up with a sequence that nobody looks at.
SIZES = (64, 128, 256, 512)
PROMPTS = 8

States = Callable[[Tensor, Tensor, int, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A graph, where it reads and where it writes."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    ends: Tensor
    last: Tensor
    states: Tensor


class Graphs:
    """One graph a size."""

    def __init__(self, states: States, device: torch.device, end: int) -> None:
        self._device = device
        self._end = end
        self._running = threading.Lock()  # they read and write the same places
        pool = torch.cuda.graph_pool_handle()
        self._recorded = {size: _record(states, *self._filled(None, size), pool) for size in reversed(SIZES)}

    def take(self, packed: Packed) -> bool:
        """Whether there is a graph for these prompts."""
        tokens = packed.tokens.shape[1]
        return tokens <= SIZES[-1] and len(packed.ends) - 1 <= PROMPTS and not len(packed.media)

    def run(self, packed: Packed) -> Tensor:
        """float32 [prompts, hidden]."""
        size = next(size for size in SIZES if packed.tokens.shape[1] <= size)
        recorded = self._recorded[size]
        with self._running:
            tokens, ends, last = self._filled(packed, size)
            recorded.tokens.copy_(tokens)
            recorded.ends.copy_(ends)
            recorded.last.copy_(last)
            recorded.graph.replay()
            return recorded.states[: len(packed.ends) - 1].clone()

    def _filled(self, packed: Packed | None, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, ends and last places, filled up to their full sizes, on the device."""
        parts = fill(packed, size, self._end)
        tokens, ends, last = (on_device(torch.from_numpy(part), self._device) for part in parts)
        return tokens, ends, last


def fill(packed: Packed | None, size: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Tokens [4, size], ends [PROMPTS + 2] and last places [PROMPTS]; behind the prompts one of end tokens, then empty
    ones."""
    tokens = np.empty((4, size), np.int64)
    tokens[0], tokens[1:] = end, np.arange(size)
    ends, last = np.full(PROMPTS + 2, size, np.int32), np.zeros(PROMPTS, np.int64)
    ends[0] = 0
    if packed is not None:
        tokens[:, : packed.tokens.shape[1]] = packed.tokens
        ends[: len(packed.ends)] = packed.ends
        last[: len(packed.ends) - 1] = packed.ends[1:] - 1
    return tokens, ends, last


def _record(states: States, tokens: Tensor, ends: Tensor, last: Tensor, pool: object) -> Recorded:
    size = tokens.shape[1]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(2):  # what is chosen or compiled at first must not be recorded
            states(tokens, ends, size, last)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            found = states(tokens, ends, size, last)
    torch.cuda.current_stream().wait_stream(stream)
    return Recorded(graph, tokens, ends, last, found)
