"""What a sidecar's settings say about how a model is loaded."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest

from pgmeaning.models.registry import builtin_model
from pgmeaning.settings import Settings
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.serving import Serving


@pytest.mark.parametrize(
    ("model", "chosen", "options"),
    [
        ("Qwen3-VL-Embedding-2B", None, {}),
        ("Qwen3-VL-Embedding-2B", False, {"compile": False}),
        ("Qwen3-VL-Reranker-2B", True, {"compile": True}),
        ("all-MiniLM-L6-v2", False, {}),
    ],
)
def test_a_setting_switches_the_compiled_layers_of_the_backend_that_has_them(
    model: str, chosen: bool | None, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def load(_: Any, **given: Any) -> Any:
        seen.append(given)
        return object()

    serving = Serving(Run("", Settings(compile=chosen)), lambda: nullcontext(Mock()), load, load)
    monkeypatch.setattr(serving, "_model", lambda connection, name: builtin_model(name))
    monkeypatch.setattr(serving, "_probe", lambda *_: None)
    serving._marks[model] = (False, "", "")
    (serving.rerankers if "Reranker" in model else serving.embedders).get(model)
    assert seen == [options]
