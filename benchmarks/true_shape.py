"""Qwen3-VL-Embedding-8B in its true shape, without a checkpoint, and inputs for it."""

from __future__ import annotations

import ast
import io
import random
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.conformance import tiny_qwen
from transformers import AutoModel, Qwen3VLConfig

from pgmeaning.types import Document

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def build(tiny: bool) -> Any:
    """The network with random weights; each layer adds little to its input, as in trained networks."""
    torch.manual_seed(0)
    config = tiny_qwen.build_config(256, 2) if tiny else true_shape()
    with torch.device(DEVICE):
        body = AutoModel.from_config(
            config, dtype=torch.bfloat16 if CUDA else torch.float32, attn_implementation="sdpa"
        ).eval()
    small = 0.02 / (2 * config.text_config.num_hidden_layers) ** 0.5
    with torch.no_grad():
        for name, weight in body.language_model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, small if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02)
    return body


def true_shape() -> Qwen3VLConfig:
    """Qwen3-VL-Embedding-8B's."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5_000_000.0, "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
        },
        tie_word_embeddings=False,
    )  # fmt: skip


def texts(tiny: bool) -> dict[str, list[Document]]:
    """Short rows, and documents of log-normal length."""
    random.seed(1)
    known = list(islice(docstrings(), 400 if tiny else None))
    rows = [f"{module}.{name}: {doc.split(chr(10) + chr(10))[0]}" for module, name, doc in known][:6000]
    documents: list[str] = []
    while len(documents) < 600:
        wanted, text = int(random.lognormvariate(6.2, 0.9)) * 4, ""
        while len(text) < wanted:
            text += "\n\n" + random.choice(known)[2]
        documents.append(text[:wanted])
    if tiny:
        rows, documents = rows[:128], documents[:8]
    return {"rows": [Document(text) for text in rows], "documents": [Document(text) for text in documents]}


def docstrings() -> Iterator[tuple[str, str, str]]:
    """(module, name, docstring) of the standard library's functions and classes."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and (
                doc := ast.get_docstring(node)
            ):
                yield file.stem, node.name, doc


def captioned_images(count: int, width: int = 1024, height: int = 768) -> list[Document]:
    """Soft random images as JPEG, each with a caption."""
    made = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 255, (height // 32, width // 32, 3), np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(coarse).resize((width, height)).save(encoded, "JPEG", quality=90)
        made.append(Document(f"image {seed} of something soft and coloured", (encoded.getvalue(),)))
    return made
