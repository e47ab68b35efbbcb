"""Qwen3-VL-Embedding and Qwen3-VL-Reranker: text, images and video, as the models' own reference code computes them.

Source: the code of the Qwen3-VL-Embedding repository (github.com/QwenLM/Qwen3-VL-Embedding) and its report
(arXiv:2601.04720).

    Document --prompt--> token ids, vision --> patches --network--> hidden state of the last token --> vector or score
"""

from pgmeaning.models.qwen3_vl.embedder import Qwen3VLEmbedder, load
from pgmeaning.models.qwen3_vl.reranker import Qwen3VLReranker, load_reranker

__all__ = ["Qwen3VLEmbedder", "Qwen3VLReranker", "load", "load_reranker"]
