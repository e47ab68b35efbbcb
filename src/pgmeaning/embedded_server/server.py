"""The embedded PostgreSQL: one data folder, one server on 127.0.0.1, started and stopped from Python.

A server outlives the process that started it. PostgreSQL refuses to run as root, so for root it runs as the account
that owns the folder. Every connection needs a password: with `trust`, any local account would be a superuser.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from pgmeaning.embedded_server.data_folder import DataFolder, Postmaster, alive, drop_socket_folder
from pgmeaning.embedded_server.install import (
    Account,
    Install,
    check_processor,
    end,
    find_install,
    last_lines,
    missing_processor_features,
    reachable,
    spawn,
    wait_for,
)
from pgmeaning.errors import ServerError

__all__ = ["EmbeddedServer", "ServerStatus", "check_processor", "default_data_dir", "missing_processor_features"]

FIRST_PORT = 54320

# The shell leaves the server to init: as our child, it would be a zombie from its end until ours.
LAUNCH = ["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh"]


@dataclass(frozen=True)
class ServerStatus:
    """The state of a server; `pid`, `port` and `dsn` are None unless it is running."""

    running: bool
    pid: int | None
    port: int | None
    data_dir: Path
    dsn: str | None
    version: str


def default_data_dir() -> Path:
    """The user's data folder; for root it is below /var/lib, since the server's account cannot enter /root."""
    return _data_home() / "server"


def _data_home() -> Path:
    if os.path.isabs(home := os.environ.get("XDG_DATA_HOME", "")):  # XDG says to ignore relative paths
        return Path(home) / "pgmeaning"
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/pgmeaning")
    return Path.home() / ("Library/Application Support" if sys.platform == "darwin" else ".local/share") / "pgmeaning"


# By this name the server says that it is its user's alone, so that a sidecar may be its superuser: see calls.sql.
CLUSTER = "pgmeaning embedded"


class EmbeddedServer:
    """One data folder and its server. As a context manager, it stops the server at the end if it started it."""

    def __init__(
        self,
        data_dir: Path | str | None = None,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        """`settings` are PostgreSQL's, for this start only; `timeout` is in seconds, for one start or stop."""
        if port is not None and not 0 < port < 65536:
            raise ServerError(f"{port} is not a port", hint="ports go from 1 to 65535")
        if data_dir == "":  # as from an unset shell variable; as a path it would mean the current folder
            raise ServerError("the name of the data folder is empty", hint="name a folder, or leave out the option")
        self.data_dir = Path(data_dir or default_data_dir()).expanduser().resolve()
        self._folder = DataFolder(self.data_dir)
        self._folder.refuse_file()
        self._port = port
        self._settings = dict(settings or {})
        self._timeout = timeout
        self._started_here = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._started_here:
            self.stop()

    @property
    def log(self) -> Path:
        """The server's log since its last start."""
        return self._folder.log

    @property
    def dsn(self) -> str:
        """The connection URI of the running server, with the password in it."""
        return self._dsn(self._running_or_refuse())

    def start(self) -> str:
        """Make the cluster if there is none, start its server if it is not running, and return the DSN."""
        check_processor()
        install = find_install()
        with self._explaining("start"):
            account = self._folder.prepare(install)
            with self._folder.locked(account, 2 * self._timeout):
                postmaster = self._running() or self._launch(install, account)
                self._check_port(postmaster)
                return self._dsn(postmaster)

    def stop(self) -> None:
        """Stop the server, ending its sessions, and wait until it is gone; it is no error if none is running."""
        with self._explaining("stop"):
            if self._folder.is_taken():
                with self._folder.locked(None, 2 * self._timeout):
                    self._stop()
        self._started_here = False

    def status(self) -> ServerStatus:
        """The server's state; changes nothing."""
        version = find_install().version()
        with self._explaining("inspect"):
            if server := self._folder.server():
                return ServerStatus(True, server.pid, server.port, self.data_dir, self._dsn(server), version)
            return ServerStatus(False, None, None, self.data_dir, None, version)

    def psql_command(self) -> list[str]:
        """The package's psql, or else the system's; run it with `psql_environment`."""
        packaged = find_install().program("psql")
        psql = str(packaged) if packaged.is_file() else shutil.which("psql")
        if psql is None:
            raise ServerError("psql was not found", hint="install PostgreSQL's client programs")
        return [psql]

    def psql_environment(self) -> dict[str, str]:
        """Variables for psql or any libpq program: the address, and the password, to keep it off the command line."""
        port = self._running_or_refuse().port
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        address = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        return inherited | address | {"PGPASSWORD": self._folder.password()}

    def _dsn(self, postmaster: Postmaster) -> str:
        return f"postgresql://postgres:{self._folder.password()}@127.0.0.1:{postmaster.port}/postgres"

    def _running(self) -> Postmaster | None:
        """The running server, if there is one, once it accepts connections."""
        server = self._folder.server()
        if server is None or server.ready:
            return server
        if not wait_for(lambda: self._settled(server.pid), self._timeout):
            raise self._failure(f"has been starting or stopping for {self._timeout:g} s")
        return self._folder.server()

    def _running_or_refuse(self) -> Postmaster:
        with self._explaining("inspect"):
            if server := self._running():
                return server
        raise ServerError(f"the server of {self.data_dir} is not running", hint="run: pgmeaning server start")

    def _settled(self, pid: int) -> bool:
        """Whether this process accepts connections, or has ended."""
        postmaster = self._folder.postmaster()
        return (postmaster is not None and postmaster.pid == pid and postmaster.ready) or not alive(pid)

    def _check_port(self, postmaster: Postmaster) -> None:
        if self._port not in (None, postmaster.port):
            raise ServerError(
                f"the server of {self.data_dir} is already running on port {postmaster.port}",
                hint="stop it first, or leave out the port",
            )

    def _launch(self, install: Install, account: Account | None) -> Postmaster:
        install = reachable(install, account, _data_home())
        self._folder.settle(install, account, sync=self._settings.get("fsync") != "off")
        sockets = self._folder.socket_folder(account)
        try:
            with self._folder.fresh_log(account) as log:
                postmaster = self._launch_somewhere(str(install.program("postgres")), sockets, account, log)
        except BaseException:
            drop_socket_folder(sockets)
            raise
        self._started_here = True
        return postmaster

    def _launch_somewhere(self, program: str, sockets: str, account: Account | None, log: BinaryIO) -> Postmaster:
        """Launch until it succeeds: a port lost to another program, or a dying predecessor, is only temporary."""
        deadline = time.monotonic() + self._timeout
        while True:
            seen = os.fstat(log.fileno()).st_size
            command = [program, "-D", str(self.data_dir), *self._options(self._choose_port(), sockets)]
            if postmaster := self._launch_once(command, account, log):
                return postmaster
            if not self._may_heal(self._folder.log_text(seen)) or time.monotonic() > deadline:
                raise self._failure("did not start")
            time.sleep(0.05)

    def _launch_once(self, command: list[str], account: Account | None, log: BinaryIO) -> Postmaster | None:
        """Launch the server and wait until it accepts connections; None if it exits instead."""
        pid = 0
        with spawn([*LAUNCH, *command], account, log) as shell:
            try:
                pid = int(shell.communicate()[0])
                if not wait_for(lambda: self._settled(pid), self._timeout):
                    raise self._failure(f"did not accept connections within {self._timeout:g} s")
            except BaseException:
                end(shell, lambda: shell.poll() is not None and not (pid and alive(pid)))
                raise
        return self._running()

    def _options(self, port: int, sockets: str) -> list[str]:
        if {",", '"'} & set(sockets):  # PostgreSQL would read a list of folders
            sockets = '"' + sockets.replace('"', '""') + '"'
        settings = {"listen_addresses": "127.0.0.1", "cluster_name": CLUSTER} | self._settings
        settings |= {"port": str(port), "unix_socket_directories": sockets}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _choose_port(self) -> int:
        """The requested port, or the last one, or the default one, or any."""
        if self._port is None:
            wishes = (self._folder.last_port(), FIRST_PORT)
            return next((port for port in wishes if port and is_free(port)), None) or any_free_port()
        if not is_free(self._port):
            raise ServerError(f"port {self._port} is in use", hint="choose another port, or leave out the port")
        return self._port

    @staticmethod
    def _may_heal(log: str) -> bool:
        return "Address already in use" in log or "pre-existing shared memory block" in log

    def _failure(self, what: str) -> ServerError:
        """An error that quotes the end of the log."""
        log = last_lines(self._folder.log_text())
        return ServerError(f"the server of {self.data_dir} {what}:\n{log}", hint=f"its log is {self.log}")

    def _stop(self) -> None:
        server = self._folder.server()
        if server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGINT)  # a fast shutdown
        if not wait_for(lambda: not alive(server.pid), self._timeout):
            raise self._failure(f"did not stop within {self._timeout:g} s")
        drop_socket_folder(server.socket_folder)

    @contextlib.contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ServerError(f"cannot {what} the server of {self.data_dir}: {error}") from error


def is_free(port: int) -> bool:
    """Whether nobody listens on the port; PostgreSQL finds out itself whether it may use it."""
    try:
        _bind(port)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def any_free_port() -> int:
    return _bind(0)


def _bind(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        number: int = probe.getsockname()[1]
        return number
