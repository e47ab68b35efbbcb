"""The application: addresses and their views."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pgmeaning.console.connections import Connections
from pgmeaning.console.judgement_views import JudgementViews
from pgmeaning.console.judgements import Judgements
from pgmeaning.console.operations_views import OperationsViews
from pgmeaning.console.pages import static_folder, view
from pgmeaning.console.playground_views import PlaygroundViews


def application(connections: Connections, judgements: Judgements, *, write: bool) -> Starlette:
    """All views, over these connections; who may see them is the guard's to say."""
    routes = [
        *_playground(PlaygroundViews(connections, judgements)),
        *_judgements(JudgementViews(judgements)),
        *_operations(OperationsViews(connections, write=write)),
    ]
    return Starlette(routes=[*routes, _static()])


def _playground(views: PlaygroundViews) -> list[BaseRoute]:
    return [
        Route("/", view(views.show)),
        Route("/column", view(views.column), methods=["POST"]),
        Route("/document", view(views.document), methods=["POST"]),
        Route("/image", view(views.image)),
    ]


def _judgements(views: JudgementViews) -> list[BaseRoute]:
    return [
        Route("/judge", view(views.judge), methods=["POST"]),
        Route("/judged", view(views.told)),
        Route("/judgements", view(views.export)),
    ]


def _operations(views: OperationsViews) -> list[BaseRoute]:
    return [
        Route("/operations", view(views.show)),
        Route("/operations/now", view(views.now)),
        Route("/retry", view(views.retry), methods=["POST"]),
    ]


def _static() -> BaseRoute:
    return Mount("/static", StaticFiles(directory=static_folder()))
