"""The Python API: public names with their signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pgmeaning
from pgmeaning.evaluation import Evaluation, read_queries
from pgmeaning.evaluation.report import html
from pgmeaning.models.base import LoadedEmbedder, LoadedReranker

WIDTH = 100

HEAD = """# Python

<!-- Written by `make docs` from the docstrings. -->

`import pgmeaning` gives the names below; everything is loaded on first use. Errors are listed in [Errors](errors.md).
"""


def page() -> str:
    """Functions and classes in the order in which one meets them."""
    sections = [
        _function("pgmeaning.connect", pgmeaning.connect),
        _class("pgmeaning.Client", pgmeaning.Client, "client"),
        _function("pgmeaning.connect_async", pgmeaning.connect_async),
        _class("pgmeaning.AsyncClient", pgmeaning.AsyncClient, "client"),
        _class("pgmeaning.Hit", pgmeaning.Hit),
        _function("pgmeaning.where", pgmeaning.where),
        _class("pgmeaning.Condition", pgmeaning.Condition),
        _class("pgmeaning.Match", pgmeaning.Match),
        _class("pgmeaning.Label", pgmeaning.Label),
        _class("pgmeaning.Cluster", pgmeaning.Cluster),
        _class("pgmeaning.Embedding", pgmeaning.Embedding),
        _class("pgmeaning.Imported", pgmeaning.Imported),
        _function("pgmeaning.rerank", pgmeaning.rerank),
        _class("pgmeaning.Ranked", pgmeaning.Ranked),
        _function("pgmeaning.evaluation.read_queries", read_queries),
        _class("pgmeaning.evaluation.Evaluation", Evaluation, "evaluation"),
        _function("pgmeaning.evaluation.report.html", html),
        _function("pgmeaning.load_embedder", pgmeaning.load_embedder),
        _class("The embedder", LoadedEmbedder, "embedder"),
        _function("pgmeaning.load_reranker", pgmeaning.load_reranker),
        _class("The reranker", LoadedReranker, "reranker"),
    ]
    return HEAD + "".join(sections)


def _function(title: str, function: Callable[..., Any]) -> str:
    return f"\n## {title}\n\n{_described(title, function)}"


def _class(title: str, cls: type, variable: str = "") -> str:
    fields = getattr(cls, "__dataclass_fields__", {})
    text = f"\n## {title}\n\n{inspect.getdoc(cls)}\n"
    if fields:
        lines = [f"{field.name}: {field.type}" for field in fields.values()]
        text += "\n```text\n" + "\n".join(lines) + "\n```\n"
    for name, method in _methods(cls):
        text += f"\n### {variable}.{name}\n\n{_described(f'{variable}.{name}', method)}"
    return text


def _parts(cls: type) -> list[type]:
    """The class, and those of ours that it consists of."""
    return [part for part in cls.__mro__ if part is cls or part.__module__.startswith("pgmeaning.client")]


def _methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    members = [member for part in _parts(cls) for member in vars(part).items()]
    return ((name, value) for name, value in members if inspect.isfunction(value) and not name.startswith("_"))


def _described(name: str, function: Callable[..., Any]) -> str:
    return f"```text\n{_signature(name, function)}\n```\n\n{inspect.getdoc(function)}\n"


def _signature(name: str, function: Callable[..., Any]) -> str:
    """On one line, or a parameter a line where that is too long."""
    signature = inspect.signature(function)
    parameters = _parameters(signature)
    answer = str(signature.return_annotation).replace("NDArray[np.float32]", "numpy.ndarray")
    line = f"{name}({', '.join(parameters)}) -> {answer}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f") -> {answer}"


def _parameters(signature: inspect.Signature) -> list[str]:
    parts: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        parts.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    return parts
