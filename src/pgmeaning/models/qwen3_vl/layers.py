"""One decoder layer over packed tokens, from the tensors that a checkpoint's names fix.

The library's own layers change from version to version; what they hold, and so what is computed here, does not.
Projections that read the same input lie in one matrix. The library's modules see parts of that same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from pgmeaning.models.qwen3_vl import attention

# The largest number of float8_e4m3fn.
FP8_MAX = 448.0


class Matrix(NamedTuple):
    """Weights [out, in]; in 8 bits with a scale for each row."""

    weight: Tensor
    scale: Tensor | None = None


class Layer(NamedTuple):
    """The tensors of a decoder layer."""

    before: Tensor
    qkv: Matrix
    query_norm: Tensor
    key_norm: Tensor
    out: Matrix
    between: Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Shape:
    """What the tensors do not say."""

    heads: int
    key_heads: int
    size: int  # of a head
    epsilon: float


Run = Callable[[Tensor, Tensor, Tensor, Tensor, int, Layer], Tensor]


def shape_of(config: Any) -> Shape:
    """The shape that a text configuration gives."""
    return Shape(config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps)


def layer_of(module: Any) -> Layer:
    """The tensors of the library's layer; raises AttributeError or ValueError where it is not as we know it."""
    heads, mlp = module.self_attn, module.mlp
    projections = [heads.q_proj, heads.k_proj, heads.v_proj, heads.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if any(part.bias is not None for part in projections):
        raise ValueError("its projections have biases")
    if not isinstance(mlp.act_fn, nn.SiLU) and type(mlp.act_fn).__name__ not in ("SiLUActivation", "SiLU"):
        raise ValueError(f"its activation is {type(mlp.act_fn).__name__}")
    return Layer(
        module.input_layernorm.weight, Matrix(_joined(heads.q_proj, heads.k_proj, heads.v_proj)), heads.q_norm.weight,
        heads.k_norm.weight, Matrix(heads.o_proj.weight), module.post_attention_layernorm.weight,
        Matrix(_joined(mlp.gate_proj, mlp.up_proj)), Matrix(mlp.down_proj.weight),
    )  # fmt: skip


def runner(shape: Shape, way: str) -> Run:
    """The function that runs a layer: (states [tokens, hidden], cosines, sines, ends, longest, layer) -> states."""
    widths = [number * shape.size for number in (shape.heads, shape.key_heads, shape.key_heads)]

    def run(states: Tensor, cosines: Tensor, sines: Tensor, ends: Tensor, longest: int, layer: Layer) -> Tensor:
        normed = rms_norm(states, layer.before, shape.epsilon)
        query, key, value = (
            part.unflatten(-1, (-1, shape.size)) for part in times(normed, layer.qkv).split(widths, dim=-1)
        )
        query = rotated(rms_norm(query, layer.query_norm, shape.epsilon), cosines, sines)
        key = rotated(rms_norm(key, layer.key_norm, shape.epsilon), cosines, sines)
        attended = attention.attend(query, key, value, ends, longest, True, way)
        states = states + times(attended.flatten(1), layer.out)
        normed = rms_norm(states, layer.between, shape.epsilon)
        gate, up = times(normed, layer.gate_up).chunk(2, dim=-1)
        return states + times(silu(gate) * up, layer.down)

    return run


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As the network does it: in float32, and the weight in the states' own precision."""
    wide = states.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * normed.to(states.dtype)


def rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads [tokens, heads, size] turned by their position's angles [tokens, size]."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return states * cosines[:, None] + turned * sines[:, None]


def times(states: Tensor, matrix: Matrix) -> Tensor:
    """The product; for weights of 8 bits, the states are brought to 8 bits row by row as well."""
    if matrix.scale is None:
        return linear(states, matrix.weight)
    small, scale = quantized(states)
    found: Tensor = torch._scaled_mm(
        small, matrix.weight.t(), scale_a=scale, scale_b=matrix.scale.t(), out_dtype=states.dtype, use_fast_accum=True
    )
    return found


def quantized(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """float8 [rows, n], and float32 [rows, 1] by which each row must be multiplied."""
    wide = numbers.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return (wide / scale).to(torch.float8_e4m3fn), scale


def in_8_bits(layer: Layer) -> Layer:
    """The layer with its four matrices in 8 bits."""
    names = ("qkv", "out", "gate_up", "down")
    return layer._replace(**{name: _small(getattr(layer, name)) for name in names})


def has_8_bits(device: torch.device) -> bool:
    """Whether the device multiplies them with a scale for each row: Hopper and newer."""
    return device.type == "cuda" and bool(torch.cuda.get_device_capability(device) >= (9, 0))


def _small(matrix: Matrix) -> Matrix:
    weight, scale = quantized(matrix.weight)
    return Matrix(_parameter(weight), _parameter(scale))


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _joined(*modules: nn.Linear) -> nn.Parameter:
    """One matrix of several; the modules go on with their parts of it."""
    with torch.no_grad():
        whole = torch.cat([module.weight for module in modules])
    for module, part in zip(modules, whole.split([len(module.weight) for module in modules]), strict=True):
        module.weight = _parameter(part)
    return _parameter(whole)


def drop_weights(modules: Sequence[Any]) -> None:
    """Let the library's layers forget their matrices, which are there in 8 bits now."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.weight = _parameter(torch.empty(0))
