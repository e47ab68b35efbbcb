"""Attention over sequences that lie one behind the other, none of which sees another.

One operator with three ways to compute it, so that a compiled layer sees the same thing whatever is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import groupby, pairwise
from typing import Any

import structlog
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

log = structlog.get_logger()

# The ways, the fastest first. All but the last read the cumulative lengths on the device, the last on the host.
FLASH, VARLEN, REPEATED, SDPA = "flash_attn", "varlen", "varlen with heads repeated", "sdpa"
# How far a way may be from sdpa, on normal random numbers in half precision.
TOLERANCE = 0.05


@torch.library.custom_op("pgmeaning::attend", mutates_args=())  # type: ignore[untyped-decorator]
def attend(
    query: Tensor, key: Tensor, value: Tensor, cumulative: Tensor, longest: int, causal: bool, way: str
) -> Tensor:
    """[tokens, heads, d] from [tokens, heads, d] and, for keys and values, as many or fewer heads.

    `cumulative`: int32 [n + 1], where each sequence begins, and the end. `longest`: at least the longest one's tokens.
    """
    return _WAYS[way](query, key, value, cumulative, longest, causal).contiguous()


@attend.register_fake  # type: ignore[untyped-decorator]
def _(query: Tensor, key: Tensor, value: Tensor, cumulative: Tensor, longest: int, causal: bool, way: str) -> Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)


def find_way(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, size: int) -> str:
    """The fastest way that is there and right on this device, for heads of this number and size."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return SDPA
    for way in (FLASH, VARLEN, REPEATED):
        if _is_there(way) and _is_right(way, device, dtype, heads, key_heads, size):
            return way
    log.warning("attention runs sequence by sequence", reason="neither flash_attn nor torch's varlen works here")
    return SDPA


def on_host(way: str) -> bool:
    """Whether that way reads the cumulative lengths on the host."""
    return way == SDPA


def _is_there(way: str) -> bool:
    return find_spec("flash_attn" if way == FLASH else "torch.nn.attention.varlen") is not None


def _is_right(way: str, device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, size: int) -> bool:
    """A new version that reads its arguments otherwise, or cannot group heads, is found out here, not in vectors."""
    ends = torch.tensor([0, 7, 40], dtype=torch.int32)
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn(40, number, size, device=device, dtype=dtype, generator=generator)
        for number in (heads, key_heads, key_heads)
    )
    try:
        for causal in (True, False):
            found = _WAYS[way](query, key, value, ends.to(device), 128, causal)
            expected = _by_sequence(query, key, value, ends, 128, causal)
            if not torch.allclose(found.float(), expected.float(), atol=TOLERANCE):
                return False
    except Exception as error:
        log.warning("attention by another way", way=way, error=repr(error).split("\\n")[0][:200])
        return False
    return True


def _flash(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, causal: bool) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    found: Tensor = flash_attn_varlen_func(query, key, value, ends, ends, longest, longest, causal=causal)
    return found


def _varlen(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, causal: bool) -> Tensor:
    function, known = _varlen_function()
    options: dict[str, Any] = {"window_size": (-1, 0 if causal else -1)}
    if "window_size" not in known:
        options = {"is_causal": causal}
    if "enable_gqa" in known and query.shape[1] != key.shape[1]:
        options["enable_gqa"] = True
    return function(query, key, value, ends, ends, longest, longest, **options)


def _repeated(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, causal: bool) -> Tensor:
    times = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(times, dim=1) for part in (key, value))
    return _varlen(query, keys, values, ends, longest, causal)


@cache
def _varlen_function() -> tuple[Callable[..., Tensor], frozenset[str]]:
    """torch's function and the names of its arguments, which changed from version to version."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _by_sequence(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, causal: bool) -> Tensor:
    """Sequences of one length that are neighbours go together; batches are sorted by length, so most are."""
    found = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    for start, number, length in _runs(ends.tolist()):
        place = slice(start, start + number * length)
        asked, keys, values = (
            part[place].unflatten(0, (number, length)).transpose(1, 2) for part in (query, key, value)
        )
        grouped = query.shape[1] != key.shape[1]
        attended = scaled_dot_product_attention(asked, keys, values, is_causal=causal, enable_gqa=grouped)
        found[place] = attended.transpose(1, 2).flatten(0, 1)
    return found


def _runs(ends: list[int]) -> Iterator[tuple[int, int, int]]:
    """(start, sequences, length of each) of neighbours of one length."""
    start = 0
    for length, group in groupby(end - begin for begin, end in pairwise(ends)):
        number = len(list(group))
        if length:
            yield start, number, length
        start += number * length


_WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor]] = {
    FLASH: _flash, VARLEN: _varlen, REPEATED: _repeated, SDPA: _by_sequence,
}  # fmt: skip
