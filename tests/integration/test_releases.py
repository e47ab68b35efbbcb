"""Releases between databases: exported, checked, used and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning.client.client import Client
from pgmeaning.database import migrate
from pgmeaning.errors import DatabaseError, InputError, ModelNotFound
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.releases.agreement import checksum
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.integration.test_cli import output, run
from tests.types import Connection

OURS = Model("ours", "embedder", "synthetic", dimensions=384, query_prompt="query: {text}")
JUDGE = "all-MiniLM-L6-v2-late-interaction"


class Other(SyntheticEmbedder):
    """The synthetic model, turned a little."""

    def embed_documents(self, documents: Any) -> Vectors:
        return unit_length(super().embed_documents(documents) + np.linspace(0, 0.01, self.dimensions, dtype=np.float32))


@pytest.fixture
def here(dsn: str, db: Connection) -> Iterator[Client]:
    """A database whose own release has a model that has run."""
    with pgmeaning.connect(dsn) as client:
        prepare(client, OURS)
        embed(dsn, db)
        yield client


@pytest.fixture
def there(empty_dsn: str) -> Iterator[Client]:
    """Another database, fresh."""
    migrate.upgrade(empty_dsn)
    with pgmeaning.connect(empty_dsn) as client:
        yield client


@pytest.fixture
def file(here: Client, tmp_path: Path) -> Path:
    """The release of the first."""
    here.sign_release("team", "Ada")
    here.export_release(tmp_path / "team.json")
    return tmp_path / "team.json"


def prepare(client: Client, model: Model) -> None:
    client.add_model(model)
    client.create_release("team", embedder=model.name, reranker=JUDGE, dimensions=384)
    client.use_release("team")


def embed(dsn: str, db: Connection, load: Any = None) -> None:
    """Have a sidecar run the model, so that it has probes."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    sidecar = Sidecar(dsn, Settings()) if load is None else Sidecar(dsn, Settings(), load=load)
    assert sidecar.run(drain=True) == 0


def verdicts(client: Client, file: Path) -> dict[str, str]:
    return {found.subject: found.verdict for found in client.check_release(file)}


def current(client: Client) -> Any:
    return next(release for release in client.releases() if release["current"])


def rewritten(file: Path, change: Any) -> Path:
    """The file with something changed and its checksum made anew."""
    document = json.loads(file.read_text())
    change(document)
    document["checksum"] = checksum(document)
    file.write_text(json.dumps(document))
    return file


# From one to the other


def test_a_release_taken_from_a_file_brings_models_probes_and_who_signed_it(there: Client, file: Path) -> None:
    assert verdicts(there, file) == {JUDGE: "equal", "ours": "missing"}
    assert there.import_release(file) == "team"
    assert verdicts(there, file) == {JUDGE: "equal", "ours": "equal", "release team": "equal"}
    assert (current(there)["name"], current(there)["defaults"], current(there)["signed_off_by"]) == (
        "team",
        True,
        "Ada",
    )
    assert there.model("ours").query_prompt == OURS.query_prompt
    (ours,) = [model for model in there.models() if model["name"] == "ours"]
    assert ours["probed"] == "release team"


def test_a_model_that_drifted_elsewhere_is_refused_by_the_probes_that_came_with_the_release(
    there: Client, file: Path, empty_dsn: str
) -> None:
    there.import_release(file)
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        db.execute("INSERT INTO docs VALUES (1, 'one')")
        db.execute("SELECT pgmeaning.attach('docs', '{body}')")
        assert Sidecar(empty_dsn, Settings(), load=lambda _: Other(384)).run(drain=True) == 1
        assert Sidecar(empty_dsn, Settings()).run(drain=True) == 0


def test_taking_a_release_twice_changes_nothing(there: Client, file: Path) -> None:
    there.import_release(file)
    before = (there.models(), there.releases())
    there.import_release(file)
    assert (there.models(), there.releases()) == before


def test_the_release_that_ships_is_equal_everywhere(here: Client, there: Client, tmp_path: Path) -> None:
    here.export_release(tmp_path / "shipped.json", "26.02")
    assert set(verdicts(there, tmp_path / "shipped.json").values()) == {"equal"}


def test_a_release_that_is_not_there_cannot_be_exported(here: Client, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        here.export_release(tmp_path / "x.json", "nope")
    assert list(tmp_path.iterdir()) == []


# What is refused


def test_a_damaged_file_is_refused(there: Client, file: Path) -> None:
    text = file.read_text()
    for damaged in (text.replace('"dimensions": 384', '"dimensions": 256', 1), text[:-100], "[]", '{"format": 1}'):
        assert damaged != text
        file.write_text(damaged)
        with pytest.raises(InputError):
            there.import_release(file)
    assert current(there)["name"] == "26.02"


def test_a_model_of_that_name_with_another_template_is_a_conflict(there: Client, file: Path) -> None:
    there.add_model(replace(OURS, query_prompt="search: {text}"))
    (found,) = [finding for finding in there.check_release(file) if finding.subject == "ours"]
    assert (found.verdict, "query_prompt" in found.why) == ("different", True)
    with pytest.raises(DatabaseError, match="means something else by ours"):
        there.import_release(file)
    assert current(there)["name"] == "26.02"


def test_a_release_of_that_name_with_other_dimensions_is_a_conflict(there: Client, file: Path) -> None:
    there.create_release("team", embedder="synthetic-384", reranker=JUDGE)
    assert verdicts(there, file)["release team"] == "different"
    with pytest.raises(DatabaseError, match="release team"):
        there.import_release(file)
    assert "ours" not in [model["name"] for model in there.models()]


def test_equal_definitions_whose_probes_differ_are_different(there: Client, file: Path, empty_dsn: str) -> None:
    prepare(there, OURS)
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        embed(empty_dsn, db, load=lambda _: Other(384))
    (found,) = [finding for finding in there.check_release(file) if finding.subject == "ours"]
    assert (found.verdict, "cosine" in found.why) == ("different", True)


def test_another_location_is_compatible_if_the_probes_are_alike(there: Client, file: Path, empty_dsn: str) -> None:
    prepare(there, replace(OURS, location="elsewhere"))
    assert verdicts(there, file)["ours"] == "different"  # it has not run there: nobody knows
    with psycopg.connect(empty_dsn, autocommit=True) as db:
        embed(empty_dsn, db)
    assert verdicts(there, file)["ours"] == "compatible"


def test_the_same_model_under_another_name_is_named(there: Client, file: Path) -> None:
    there.add_model(replace(OURS, name="theirs"))
    (found,) = [finding for finding in there.check_release(file) if finding.subject == "ours"]
    assert (found.verdict, found.why) == ("missing", "the same model is theirs here")


def test_a_fingerprint_that_does_not_fit_its_definition_is_different(there: Client, file: Path) -> None:
    there.add_model(OURS)
    rewritten(file, lambda document: document["models"][1].update(fingerprint="00"))
    assert verdicts(there, file)["ours"] == "different"


def test_what_an_endpoint_is_to_be_told_in_secret_is_not_exported(here: Client, tmp_path: Path) -> None:
    options = {"extra_body": {"user": "secret-token"}}
    here.add_model(Model("served", "embedder", "http", location="http://x", dimensions=384, options=options))
    here.create_release("served", embedder="served")
    here.export_release(tmp_path / "served.json", "served")
    assert "secret-token" not in (tmp_path / "served.json").read_text()


# Two databases


def test_two_databases_are_compared_by_release_and_models_in_use(here: Client, there: Client, file: Path) -> None:
    there.import_release(file)
    assert {found.verdict for found in here.compare_release(there)} == {"equal"}
    there.connection.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    there.add_model(Model("private", "embedder", "synthetic", dimensions=64))
    there.attach("docs", columns=["body"], model="private")
    assert [found.subject for found in here.compare_release(there) if not found.passed] == ["private"]


def test_two_servers_are_compared(here: Client, dsn: str, file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from pgmeaning.embedded_server.server import EmbeddedServer

    folder = tmp_path_factory.mktemp("second")
    for part in (folder, *folder.parents[:3]):
        part.chmod(0o755)  # as root the server runs as another account, which must get through
    with EmbeddedServer(folder / "data") as server:
        migrate.upgrade(server.dsn)
        assert run("release", "compare", "--with", server.dsn, "--dsn", dsn).returncode == 0
        done = run("release", "compare", "--with", dsn, "--dsn", server.dsn)
        assert (done.returncode, "missing" in done.stdout) == (1, True)
        output("release", "use", str(file), "--dsn", server.dsn)
        found = json.loads(output("release", "compare", "--with", server.dsn, "--json", "--dsn", dsn))
        assert (found["passed"], {row["verdict"] for row in found["findings"]}) == (True, {"equal"})


@pytest.mark.usefixtures("here", "there")
def test_the_command_line_exports_checks_and_uses_a_file(dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    name = str(tmp_path / "team.json")
    output("release", "export", name, "--dsn", dsn)
    assert output("release", "check", name, "--dsn", dsn)
    done = run("release", "check", name, "--json", "--dsn", empty_dsn)
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (1, False)
    output("release", "use", name, "--dsn", empty_dsn)
    assert output("release", "check", name, "--dsn", empty_dsn)
