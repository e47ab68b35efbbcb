"""The vision tower over packed patches: what the tokens that stand for images and video frames are filled with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from pgmeaning.models.qwen3_vl import attention
from pgmeaning.models.qwen3_vl.layers import rotated
from pgmeaning.models.qwen3_vl.packing import round_up
from pgmeaning.models.qwen3_vl.vision import MERGED, Visual, on_device

EPSILON = 1e-6


class Block(NamedTuple):
    """The tensors of a block, each matrix and norm with its bias."""

    before: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    between: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


class Tower:
    """The library's vision tower, run block by block. Raises AttributeError where it is not as we know it."""

    def __init__(self, module: Any, wrap: Callable[[Any], Any]) -> None:
        attentions = module.blocks[0].attn
        self._heads = int(attentions.num_heads)
        self._size = attentions.qkv.weight.shape[0] // 3 // self._heads
        patch = module.patch_embed.proj
        self._patch = patch.weight.flatten(1), patch.bias
        self._table, self._side = module.pos_embed.weight, round(len(module.pos_embed.weight) ** 0.5)
        self._blocks = [_block_of(block) for block in module.blocks]
        self._merger = module.merger
        self._taps = dict(zip(module.deepstack_visual_indexes, module.deepstack_merger_list, strict=True))
        device, dtype = patch.weight.device, patch.weight.dtype
        self._way = attention.find_way(device, dtype, self._heads, self._heads, self._size)
        self._run = wrap(_runner(self._heads, module.blocks[0].mlp.act_fn, self._way))
        # The angle of the n-th pair of a head's numbers falls as these do.
        self._speeds = 10_000 ** -(np.arange(0, self._size // 2, 2, dtype=np.float32) / (self._size // 2))

    def features(self, visuals: Sequence[Visual], after_block: Callable[[], None]) -> tuple[Tensor, list[Tensor]]:
        """[tokens, hidden] for the tokens of all visuals, and as much again to add behind each of the first layers."""
        device, dtype = self._patch[0].device, self._patch[0].dtype
        states = linear(torch.cat([visual.patches(device) for visual in visuals]).to(dtype), *self._patch)
        frames = [visual.grid[1:] for visual in visuals for _ in range(visual.grid[0])]
        states = states + self._places(frames)
        cosines, sines = self._angles(frames, device)
        ends = np.cumsum([0, *(rows * columns for rows, columns in frames)], dtype=np.int32)
        longest = round_up(int(np.diff(ends).max()))
        on_it = torch.from_numpy(ends) if attention.on_host(self._way) else on_device(torch.from_numpy(ends), device)
        added = []
        for number, block in enumerate(self._blocks):
            states = self._run(states, cosines, sines, on_it, longest, block)
            if number in self._taps:
                added.append(self._taps[number](states))
            after_block()
        return self._merger(states), added

    def _places(self, frames: Sequence[tuple[int, int]]) -> Tensor:
        """The learned position of each patch: the table of a square grid, read between its points."""
        known = {frame: self._place(frame) for frame in dict.fromkeys(frames)}
        return torch.cat([known[frame] for frame in frames])

    def _place(self, frame: tuple[int, int]) -> Tensor:
        device = self._table.device
        points, weights = _between(*frame, self._side)
        points_there, weights_there = (on_device(torch.from_numpy(part), device) for part in (points, weights))
        found = (self._table[points_there] * weights_there[:, :, None]).sum(1)
        return found.to(self._table.dtype)

    def _angles(self, frames: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines float32 [patches, size of a head]: rows in the first quarter, columns in the second."""
        known = {frame: on_device(torch.from_numpy(self._angle(frame)), device) for frame in dict.fromkeys(frames)}
        angles = torch.cat([known[frame] for frame in frames])
        return angles.cos(), angles.sin()

    def _angle(self, frame: tuple[int, int]) -> NDArray[np.float32]:
        quarters = [axis.astype(np.float32)[:, None] * self._speeds for axis in _in_blocks(*frame)]
        return np.concatenate(quarters * 2, axis=1)


def _runner(heads: int, activation: Callable[[Tensor], Tensor], way: str) -> Callable[..., Tensor]:
    def run(states: Tensor, cosines: Tensor, sines: Tensor, ends: Tensor, longest: int, block: Block) -> Tensor:
        width = states.shape[-1:]
        projected = linear(layer_norm(states, width, *block.before, EPSILON), *block.qkv)
        query, key, value = projected.unflatten(-1, (3, heads, -1)).unbind(1)
        query, key = (rotated(part.float(), cosines, sines).to(states.dtype) for part in (query, key))
        attended = attention.attend(query, key, value, ends, longest, False, way)
        states = states + linear(attended.flatten(1), *block.out)
        normed = layer_norm(states, width, *block.between, EPSILON)
        return states + linear(activation(linear(normed, *block.up)), *block.down)

    return run


def _block_of(module: Any) -> Block:
    parts = (
        module.norm1, module.attn.qkv, module.attn.proj, module.norm2, module.mlp.linear_fc1, module.mlp.linear_fc2,
    )  # fmt: skip
    return Block(*((part.weight, part.bias) for part in parts))


@lru_cache(maxsize=64)
def _in_blocks(rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each patch, those of a token's square together."""
    squares = rows // MERGED, MERGED, columns // MERGED, MERGED
    row, column = np.indices((rows, columns))
    return row.reshape(squares).swapaxes(1, 2).ravel(), column.reshape(squares).swapaxes(1, 2).ravel()


@lru_cache(maxsize=64)
def _between(rows: int, columns: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each patch the four points of the table round it, int64 and float32 [patches, 4], and their weights."""
    taps, weights = [], []
    for places, length in zip(_in_blocks(rows, columns), (rows, columns), strict=True):
        point = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(length - 1, 1))
        low = np.floor(point).astype(np.int64)
        share = (point - low).astype(np.float32)
        taps.append(np.stack([low, np.minimum(low + 1, side - 1)], axis=1))
        weights.append(np.stack([1 - share, share], axis=1))
    points = taps[0][:, :, None] * side + taps[1][:, None, :]
    shares = weights[0][:, :, None] * weights[1][:, None, :]
    return points.reshape(-1, 4), shares.reshape(-1, 4)
