"""The compose file: passwords stand in files alone, and nobody has more than they need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgmeaning.database.dsn import checked
from pgmeaning.models.registry import builtin_model
from tests.needs import needs_package

DOCKER = Path(__file__).resolve().parents[2] / "docker"
yaml = needs_package("yaml", "local")


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What docker/secrets.sh makes."""
    made = shutil.copy(DOCKER / "secrets.sh", tmp_path)
    subprocess.run(["sh", made], check=True, cwd="/")
    return tmp_path / "secrets"


def test_no_service_has_a_password_in_its_environment_or_on_its_command_line(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            assert name.endswith("_FILE") or name in ("PGMEANING_API_KEY_HOSTS", "PGMEANING_METRICS_ADDRESS"), name
            assert not name.endswith("_FILE") or value.removeprefix("/run/secrets/") in service["secrets"]


def test_a_service_is_given_the_secrets_that_it_reads_and_no_others(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        text = str({name: value for name, value in service.items() if name != "secrets"})
        assert set(re.findall(r"/run/secrets/([\w.]+)", text)) == set(service.get("secrets", []))


def test_the_sidecar_logs_in_as_its_own_roles(compose: dict[str, Any], secrets: Path) -> None:
    environment = compose["services"]["sidecar"]["environment"]
    users = {
        name: conninfo_to_dict((secrets / Path(environment[name]).name).read_text())["user"]
        for name in ("PGMEANING_DSN_FILE", "PGMEANING_READER_DSN_FILE")
    }
    assert users == {"PGMEANING_DSN_FILE": "pgmeaning_sidecar", "PGMEANING_READER_DSN_FILE": "pgmeaning_reader"}


def test_every_secret_is_made_and_is_a_different_one_each_time(compose: dict[str, Any], secrets: Path) -> None:
    for secret in compose["secrets"].values():
        assert (secrets.parent / secret["file"]).is_file()
    passwords = {(secrets / f"{role}_password").read_text() for role in ("postgres", "sidecar", "reader")}
    assert {len(password) for password in passwords} == {48}
    assert len(passwords) == 3
    for name in ("admin", "sidecar", "reader"):
        dsn = (secrets / f"{name}_dsn").read_text().strip()
        assert checked(dsn) == dsn
    statements = (secrets / "role_passwords.sql").read_text()
    for role in ("sidecar", "reader"):
        password = (secrets / f"{role}_password").read_text()
        assert f"ALTER ROLE pgmeaning_{role} PASSWORD '{password}';\n" in statements
        assert f":{password}@" in (secrets / f"{role}_dsn").read_text()


def test_only_their_owner_gets_at_the_secrets_and_they_are_kept(secrets: Path) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o700
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    subprocess.run(["sh", secrets.parent / "secrets.sh"], check=True)
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


def test_secrets_get_neither_into_the_repository_nor_into_an_image() -> None:
    assert "docker/secrets" in (DOCKER.parent / ".gitignore").read_text()
    ignored = (DOCKER.parent / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"  # all that is not named
    assert not [line for line in ignored if line.startswith("!docker")]


def test_out_of_the_box_the_default_is_a_model_that_the_image_can_run(compose: dict[str, Any]) -> None:
    *_, model = compose["services"]["model"]["command"]
    assert model == "${PGMEANING_MODEL:-all-MiniLM-L6-v2}"
    assert builtin_model("all-MiniLM-L6-v2").backend == "sentence_transformers"  # extra local, which has it
    assert "EXTRAS=local" in (DOCKER / "Dockerfile").read_text()
    assert "model" in compose["services"]["sidecar"]["depends_on"]


def test_engines_and_gpus_are_asked_for_by_profiles_alone(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "sidecar-gpu": ["gpu"], "vllm": ["vllm"], "vllm-model": ["vllm"]
    }  # fmt: skip
