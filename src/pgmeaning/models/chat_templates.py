"""Chat templates for engines, which come with the package: what `vllm serve --chat-template FILE` takes."""

from __future__ import annotations

from importlib.resources import files

from pgmeaning.errors import ModelNotFound

# By the name of the template in the registry.
FILES = {"qwen3-vl-reranker": "qwen3_vl_reranker.jinja"}


def chat_template(name: str) -> str:
    """The Jinja source; raises ModelNotFound if an engine needs none for that template."""
    if name not in FILES:
        raise ModelNotFound(f"there is no chat template for {name!r}", hint=f"there is one for {', '.join(FILES)}")
    return files("pgmeaning.models").joinpath(FILES[name]).read_text("utf-8")
