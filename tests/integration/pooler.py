"""PgBouncer in front of a test's database, on a free port of 127.0.0.1 and as an unprivileged account."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.conftest import wait_until
from tests.needs import needs_program


@contextmanager
def pgbouncer(dsn: str, *, mode: str = "transaction", size: int = 2, ignored: str = "") -> Iterator[str]:
    """The DSN of the same database through a pool of `size` connections; `ignored`: startup parameters it drops."""
    program = needs_program("pgbouncer")
    with tempfile.TemporaryDirectory(prefix="pgmeaning-pgbouncer-") as folder:
        port = _free_port()
        settings = f"pool_mode = {mode}\ndefault_pool_size = {size}\nignore_startup_parameters = {ignored}\n"
        configuration = _write(Path(folder), dsn, f"listen_port = {port}\n{settings}")
        account = _hand_over(Path(folder))
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen([program, configuration], user=account, stdout=output, stderr=output)
        pooled = make_conninfo(dsn, host="127.0.0.1", port=port, hostaddr="")
        try:
            wait_until(lambda: process.poll() is not None or _answers(pooled), timeout=20)
            assert process.poll() is None, log.read_text()
            yield pooled
        finally:
            process.terminate()
            process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(folder: Path, dsn: str, settings: str) -> Path:
    server = conninfo_to_dict(dsn)
    user, password = str(server.get("user", "")), str(server.get("password", ""))
    (folder / "users").write_text(f'"{user}" "{password}"\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        "[databases]\n"
        f"* = host={server.get('host', '127.0.0.1')} port={server.get('port', 5432)}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = md5\nauth_file = {folder}/users\n{settings}"
    )
    return configuration


def _hand_over(folder: Path) -> int | None:
    """To the account that it will run as, since it refuses to run as root."""
    if os.getuid() != 0:
        return None
    account = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return account.pw_uid


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
