"""How an endpoint is spoken to: options of the registry, and of code that loads a model. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.registry import SERVING_OPTIONS
from pgmeaning.types import Model

KEY_VARIABLE = "PGMEANING_API_KEY"
SENT = ("auto", "tokens", "text")
LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day")

# Inputs in one request, where the options do not say: of ids, of texts (more than TEI takes), with images.
IDS_TOGETHER, TEXTS_TOGETHER, IMAGES_TOGETHER = 96, 32, 8


@dataclass(frozen=True)
class Serving:
    """The options for talking to an endpoint; none of them changes a vector."""

    url: str = ""
    served_name: str = ""  # what a request calls the model
    path: str = ""  # if the engine's is not the usual one
    send: str = "auto"  # 'tokens': ids made here; 'text'; 'auto': ids where they are known to be right
    tokenizer: str = ""  # the folder or hub name with its tokenizer.json; empty: the model's location
    concurrency: int = 8  # requests in progress at once
    timeout: float = 60.0  # seconds without a byte
    retries: int = 4
    batch_rows: int = 0  # inputs in one request; 0: as many as suit what is sent
    batch_tokens: int = 65_536  # tokens in one request; an input with more is alone
    api_key_env: str = KEY_VARIABLE
    send_dimensions: bool = True  # False: vectors are cut on our side
    rerank_field: str = "documents"  # their field in the request; TEI's is 'texts'
    sigmoid: bool = False  # True: the endpoint returns logits
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # added to every request unchanged
    requests_per_minute: int = 0  # of all sidecars together; 0: no limit
    tokens_per_minute: int = 0
    tokens_per_day: int = 0  # of UTC
    price: float = 0.0  # of a million tokens: status says what a collection has cost

    @property
    def is_limited(self) -> bool:
        """Whether bulk work may have to wait."""
        return any(getattr(self, name) for name in LIMITS)


def serving(model: Model, location: object = None, **options: Any) -> Serving:
    """The registry's options, overridden by the caller's; raises ModelUnavailable if one is unknown or wrong."""
    unknown = options.keys() - SERVING_OPTIONS
    if unknown:
        raise ModelUnavailable(
            f"model {model.name!r}: the http backend has no option {min(unknown)!r}",
            hint=f"it has location and {', '.join(sorted(SERVING_OPTIONS))}",
        )
    kept = {name: value for name, value in model.options.items() if name in SERVING_OPTIONS}
    said = {**kept, **options, **({} if location is None else {"url": str(location)})}
    named_by_url = is_url(model.location)
    said.setdefault("url", model.location if named_by_url else "")
    said.setdefault("served_name", model.name if named_by_url else model.location or model.name)
    for option in fields(Serving):
        if option.name in said:
            said[option.name] = _typed(model, option.name, option.type, said[option.name])
    _check_path(model, str(said.get("path", "")))
    _check_meaning(model, said)
    return Serving(**{**said, "url": _base_url(model, said["url"])})


def is_url(location: str | None) -> bool:
    """Whether a location is an endpoint's."""
    return (location or "").startswith(("http://", "https://"))


def _typed(model: Model, name: str, kind: Any, value: Any) -> Any:
    wanted: dict[str, tuple[type, ...]] = {
        "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "Mapping[str, Any]": (dict,)
    }  # fmt: skip
    wrong = not isinstance(value, wanted[kind]) or (isinstance(value, bool) and kind != "bool")
    if wrong or (kind in ("int", "float") and value < (0 if name == "retries" else 1e-9)):
        raise ModelUnavailable(f"model {model.name!r}: its option {name} cannot be {value!r}", hint=f"give a {kind}")
    return value


def _check_meaning(model: Model, said: Mapping[str, Any]) -> None:
    if said.get("send", SENT[0]) not in SENT:
        raise ModelUnavailable(
            f"model {model.name!r}: its option send cannot be {said['send']!r}", hint=f"it is {', '.join(SENT)}"
        )
    limits = [name for name in LIMITS if name in said]
    if model.kind == "reranker" and limits:
        raise ModelUnavailable(
            f"model {model.name!r}: a reranker has no option {limits[0]}",
            hint="it answers queries alone, and those are let through",
        )


def _base_url(model: Model, url: str) -> str:
    if not is_url(url):
        raise ModelUnavailable(
            f"model {model.name!r} has no endpoint" if not url else f"model {model.name!r}: {url!r} is not a URL",
            hint="give the engine's base URL as its location or its option url, such as http://127.0.0.1:8000",
        )
    if "@" in urlsplit(url).netloc:
        raise ModelUnavailable(
            f"model {model.name!r}: its URL contains a user or password", hint=f"put the key into {KEY_VARIABLE}"
        )
    return url.rstrip("/").removesuffix("/v1")


def _check_path(model: Model, path: str) -> None:
    """Raise ModelUnavailable for a path that would lead to another host, as `@host/` or `.host/` behind a URL does."""
    if path and not path.startswith("/"):
        raise ModelUnavailable(f"model {model.name!r}: its option path is {path!r}", hint="it begins with a slash")
