"""pgmeaning model set, chat-template: how an engine is spoken to, and what it must be started with."""

from __future__ import annotations

from typing import Annotated

import typer

from pgmeaning.cli.groups import ModelName, model_app, option_of
from pgmeaning.cli.output import Dsn, connected


@model_app.command("set")
def model_set(
    name: ModelName,
    option: Annotated[
        list[str], typer.Option(metavar="KEY=JSON", help="Option to set; null takes it away. May be repeated.")
    ],
    dsn: Dsn = None,
) -> None:
    """Set options of a model behind an endpoint that change no vector, also while it is in use.

    Such as url, concurrency, timeout, extra_body and limits. Running sidecars take it up within seconds.
    """
    options = dict(option_of(text) for text in option)
    with connected(dsn) as client:
        client.set_model_options(name, options)
    typer.echo(f"{name}: {', '.join(sorted(options))} {'is' if len(options) == 1 else 'are'} set")


@model_app.command("chat-template")
def model_chat_template(
    template: Annotated[str, typer.Argument(metavar="[TEMPLATE]", help="Name of the registry's template.")] = (
        "qwen3-vl-reranker"
    ),
) -> None:
    """Print the chat template that an engine is started with (vllm serve --chat-template FILE)."""
    from pgmeaning.models.chat_templates import chat_template

    typer.echo(chat_template(template), nl=False)
