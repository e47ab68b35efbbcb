"""What is there for operators: dashboards, alerts, images and manifests that name only what exists."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.needs import needs_package, needs_program

needs_package("prometheus_client", "metrics")
from prometheus_client import Metric  # noqa: E402

from pgmeaning.settings import Settings  # noqa: E402
from pgmeaning.sidecar.metrics import OF_COLLECTIONS, OF_THE_DATABASE, Metrics, Snapshot  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "pgmeaning.rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "pgmeaning.json"
MANIFESTS = ROOT / "deploy" / "kubernetes" / "pgmeaning.yaml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
yaml = needs_package("yaml", "local")


def series() -> set[str]:
    """The names of all series that a sidecar can serve."""
    made = Metrics()
    row = dict.fromkeys((column for _, column, _ in OF_COLLECTIONS), 1) | {"collection": "docs", "model": "m"}
    database = dict.fromkeys((column for _, column, _ in OF_THE_DATABASE), 1) | {"cache_reads": 1}
    made._snapshot = Snapshot([row], database, 0.0)
    return {name for family in made.registry.collect() for name in _names(family)}


def _names(family: Metric) -> list[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return [family.name + ending for ending in endings.get(family.type, [""])]


def named(text: str) -> set[str]:
    return set(re.findall(r"\b(?:pgmeaning|process)_[a-z_]+\b", text))


def expressions(document: Any) -> str:
    if isinstance(document, dict):
        own = [value for key, value in document.items() if key == "expr"]
        return "\n".join(own + [expressions(value) for value in document.values()])
    return "\n".join(map(expressions, document)) if isinstance(document, list) else ""


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: file.name)
def test_every_series_that_is_named_is_one_that_a_sidecar_serves(file: Path) -> None:
    asked = named(expressions(yaml.safe_load(file.read_text())))
    assert len(asked) > 5
    assert asked <= series()


def test_every_gauge_and_counter_has_a_panel_or_is_left_out_on_purpose() -> None:
    shown = named(expressions(json.loads(DASHBOARD.read_text())))
    for name, _, _ in OF_COLLECTIONS:
        assert f"pgmeaning_{name}" in shown or name in ("vectors", "broken", "paused"), name


def test_promtool_accepts_the_alerts() -> None:
    promtool = needs_program("promtool", "prometheus")
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    promtool = needs_program("promtool", "prometheus")
    queries = expressions(json.loads(DASHBOARD.read_text())).replace("$__rate_interval", "5m").split("\n")
    rules = [{"record": f"query:{place}", "expr": query} for place, query in enumerate(filter(None, queries))]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_sidecar_serves_is_well_formed(tmp_path: Path) -> None:
    promtool = needs_program("promtool", "prometheus")
    page = Metrics().page("/metrics", "")[2]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True)
    assert b"error" not in done.stderr, done.stderr


def test_panels_have_places_and_sources_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["datasource"]["uid"] == "${source}" for panel in panels)


def test_the_image_has_what_the_package_needs_and_installs_extras_that_it_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(project["project"]["optional-dependencies"])
    [default] = re.findall(r"ARG EXTRAS=(\S+)", DOCKERFILE)
    assert {"local", "metrics"} <= set(default.split(",")) <= extras
    copied = " ".join(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)).split()
    built = [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"], "src"]
    named = [project["project"]["readme"], *project["project"]["license-files"], "constraints.txt", "pyproject.toml"]
    assert {*built, *named} <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {f"!{name}" for name in copied} <= set(ignored)


def test_the_image_runs_as_nobody_and_says_how_it_is() -> None:
    assert DOCKERFILE.index("USER 10001") < DOCKERFILE.index("ENTRYPOINT")
    assert "HEALTHCHECK" in DOCKERFILE
    assert "VOLUME /models" in DOCKERFILE
    python = re.findall(r"python:3\.(\d+)", DOCKERFILE)
    assert min(map(int, python)) >= 11  # as pyproject.toml requires


def manifests() -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(MANIFESTS.read_text()) if document]


def test_the_manifests_set_only_settings_that_there_are() -> None:
    known = {f"PGMEANING_{name.upper()}" for name in Settings.model_fields}
    used = set(re.findall(r"PGMEANING_[A-Z_]+", MANIFESTS.read_text()))
    assert used <= known


def test_a_pod_is_ready_by_readyz_and_ends_after_its_grace() -> None:
    kinds = {document["kind"]: document for document in manifests()}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    settings = kinds["ConfigMap"]["data"]
    assert pod["terminationGracePeriodSeconds"] > float(settings["PGMEANING_GRACE"])
    assert container["ports"][0]["containerPort"] == int(settings["PGMEANING_METRICS_PORT"])
    assert kinds["Job"]["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate", "--roles"]
    [metric] = kinds["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] in series()
