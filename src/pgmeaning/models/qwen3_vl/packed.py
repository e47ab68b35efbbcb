"""The forward pass over packed prompts: layer by layer, so that who waits can be let in between two of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.nn.functional import cosine_similarity, embedding

from pgmeaning.models.pipeline import Checkpoint
from pgmeaning.models.qwen3_vl import attention, layers
from pgmeaning.models.qwen3_vl.graphs import Graphs
from pgmeaning.models.qwen3_vl.packing import Packed, Prompt, pack, round_up
from pgmeaning.models.qwen3_vl.tower import Tower
from pgmeaning.models.qwen3_vl.vision import Visual, on_device

log = structlog.get_logger()

# How many layers the host may be ahead of the device while others can be let in. One keeps the device busy; each costs
# who is let in a layer's time, 10 ms for 16,384 tokens of the 8B on an H100.
LAYERS_AHEAD = 2
# The least cosine of states from a graph to the same ones without: kernels for other sizes round otherwise.
ALIKE = 0.98


class PackedModel:
    """The library's model, run by us; raises AttributeError or ValueError where its parts are not as we know them."""

    def __init__(self, body: Any, pads: tuple[int, int], end: int, *, compiled: bool) -> None:
        text, config = body.language_model, body.config.text_config
        self._pads, self._end = pads, end
        self._embedding, self._rotary, self._norm = text.embed_tokens.weight, text.rotary_emb, text.norm
        self.device, self._dtype = self._embedding.device, self._embedding.dtype
        self._layers = [layers.layer_of(module) for module in text.layers]
        shape = layers.shape_of(config)
        self.way = attention.find_way(self.device, self._dtype, shape.heads, shape.key_heads, shape.size)
        wrap = Compiled if compiled else _plain
        self._run = wrap(layers.runner(shape, self.way))
        self._tower = Tower(body.visual, wrap)
        self._ahead: deque[torch.cuda.Event] = deque()
        self._graphs: Graphs | None = None

    def __call__(self, prompts: Sequence[Prompt], checkpoint: Checkpoint | None = None) -> Tensor:
        """float32 [n, hidden] on the device: after the final norm, at each prompt's last token.

        `checkpoint` is called between layers; meanwhile another thread may run prompts of its own.
        """
        with torch.inference_mode():
            packed = pack(prompts, *self._pads)
            if self._graphs and self._graphs.take(packed):
                return self._graphs.run(packed)
            return self._forward(packed, prompts, checkpoint)

    def warm_up(self, tokens: int) -> None:
        """Compile and choose kernels for few and for so many tokens, and record the graphs, before anybody waits."""
        short, pad = [self._end] * 30, self._pads[0]
        self([Prompt(short)])
        self([Prompt(short * 10), *[Prompt(short)] * 3])
        self([Prompt([pad, pad, *short], (_blank(32, 64),)), Prompt(short)])
        self([Prompt([*[pad] * 4, *short], (_blank(64, 64),)), Prompt([pad, *short], (_blank(32, 32),))])
        if self.device.type == "cuda" and not attention.on_host(self.way):
            self([Prompt(short * 10)] * (tokens // len(short * 10)))
            # Tokens that differ: from equal ones it could not be told whether a graph keeps prompts apart.
            self._graphs = self._recorded([Prompt(range(30)), Prompt(range(30, 50))])

    def _recorded(self, prompts: Sequence[Prompt]) -> Graphs | None:
        """Graphs for few tokens; None, with one line in the log, where recording fails or gives other numbers."""
        expected = self(prompts)
        try:
            with torch.inference_mode():
                found = Graphs(self._states, self.device, self._end)
                near = cosine_similarity(found.run(pack(prompts, *self._pads)), expected).min().item()
            if near < ALIKE:
                raise RuntimeError(f"its states have cosine {near:.4f} to those without a graph")
        except RuntimeError as error:
            log.warning("queries run without a graph", reason=str(error).strip().split("\n")[0][:200])
            return None
        return found

    def put_in_8_bits(self, modules: Sequence[Any]) -> None:
        """All layers' matrices in 8 bits; the library's modules lose theirs."""
        for number, layer in enumerate(self._layers):
            self._layers[number] = layers.in_8_bits(layer)
            layers.drop_weights([modules[number]])

    def _forward(self, packed: Packed, prompts: Sequence[Prompt], checkpoint: Checkpoint | None) -> Tensor:
        def between() -> None:
            if checkpoint is not None:
                self._let_in(checkpoint)

        tokens = on_device(torch.from_numpy(packed.tokens), self.device)
        last = on_device(torch.from_numpy(packed.ends[1:].astype("int64") - 1), self.device)
        ends = torch.from_numpy(packed.ends)
        if not attention.on_host(self.way):
            ends = on_device(ends, self.device)
        visuals = [visual for prompt in prompts for visual in prompt.images]
        visuals += [visual for prompt in prompts for visual in prompt.videos]
        media = self._media(packed, visuals, between) if visuals else None
        return self._states(tokens, ends, round_up(packed.longest), last, media, between)

    def _media(
        self, packed: Packed, visuals: Sequence[Visual], between: Checkpoint
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The places of the media's tokens, what they begin with, and what the first layers add to them."""
        if len(packed.media) != sum(visual.tokens for visual in visuals):
            raise ValueError(f"{len(packed.media)} tokens stand for images that take {sum(v.tokens for v in visuals)}")
        places = on_device(torch.from_numpy(packed.media), self.device)
        return places, *self._tower.features(visuals, between)

    def _states(
        self, tokens: Tensor, ends: Tensor, longest: int, last: Tensor,
        media: tuple[Tensor, Tensor, list[Tensor]] | None = None, between: Checkpoint = lambda: None,
    ) -> Tensor:  # fmt: skip
        states = embedding(tokens[0], self._embedding)
        cosines, sines = (part[0] for part in self._rotary(states[None], tokens[1:, None]))
        if media is not None:
            states.index_copy_(0, media[0], media[1])
        for number, layer in enumerate(self._layers):
            states = self._run(states, cosines, sines, ends, longest, layer)
            if media is not None and number < len(media[2]):
                states.index_add_(0, media[0], media[2][number])
            between()
        found: Tensor = self._norm(states[last]).float()
        return found

    def _let_in(self, checkpoint: Checkpoint) -> None:
        """After a layer: whoever waits, once the device is near."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(blocking=True)
            event.record()
            self._ahead.append(event)
            while len(self._ahead) > LAYERS_AHEAD:
                self._ahead.popleft().synchronize()
        checkpoint()


class Compiled:
    """A function that torch compiles; where it cannot, it runs as it is, with one line in the log."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._plain = function
        self._run: Callable[..., Tensor] = torch.compile(function, dynamic=True)
        self._works = False

    def __call__(self, *arguments: Any) -> Tensor:
        """What the function gives."""
        try:
            found = self._run(*arguments)
        except Exception as error:
            if self._works and not isinstance(error, TorchDynamoException):
                raise
            found = self._plain(*arguments)  # it raises what is the arguments' fault
            log.warning("layers run uncompiled", error=str(error).strip().split("\n")[0][:200])
            self._run = self._plain
        self._works = True
        return found


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function


def _blank(height: int, width: int) -> Visual:
    ones = (1.0, 1.0, 1.0)
    return Visual(torch.zeros(3, height, width, dtype=torch.uint8), (1, height // 16, width // 16), "", (ones, ones))
