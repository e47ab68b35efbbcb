"""The embedded server's data folder: its owner, the cluster in it, and the process that serves it.

It is an ordinary cluster; the files that we add are named pgmeaning.*:

    pgmeaning.lock       held by whoever starts or stops the server
    pgmeaning.password   of the superuser `postgres`, readable by the owner alone
    pgmeaning.log        the server's log since its last start; pgmeaning.log.1 is from the start before
    pgmeaning.initdb-*   a cluster that initdb is making
    pgmeaning.cluster    a finished cluster, not yet moved into place

Root works in a folder that another account owns, so it never writes to an existing file: it could be a link to
somewhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pgmeaning.embedded_server.install import Account, Install, account_for, make_folders, permits, run, wait_for
from pgmeaning.errors import ServerError

LONGEST_SOCKET_PATH = 103  # bytes: macOS's limit; Linux has four more
SHORT_SOCKET_FOLDER = "/tmp/pgmeaning-sockets-"
DYING_SECONDS = 2.0  # how long sessions have to notice that their server was killed


@dataclass(frozen=True)
class Postmaster:
    """What a server says about itself in postmaster.pid."""

    pid: int
    port: int
    socket_folder: str
    ready: bool


@dataclass(frozen=True)
class DataFolder:
    """A folder for one cluster."""

    path: Path

    @property
    def log(self) -> Path:
        return self._ours("log")

    def _ours(self, name: str) -> Path:
        return self.path / f"pgmeaning.{name}"

    def refuse_file(self) -> None:
        """Refuse a path that is a file, or below one."""
        place = next(path for path in (self.path, *self.path.parents) if os.path.exists(path))
        if not place.is_dir():
            raise ServerError(f"{place} is a file, not a folder", hint="choose another data folder")

    def is_taken(self) -> bool:
        """Whether we ever started a server here."""
        try:
            self._ours("lock").lstat()
        except FileNotFoundError:
            return False
        return True

    def prepare(self, install: Install) -> Account | None:
        """Make the folder if it is missing, refuse it if it is not ours, and return who runs the server."""
        account = account_for(self.path)
        self._check_the_way(account)
        make_folders(self.path.parent)
        self.path.mkdir(mode=0o700, exist_ok=True)
        if not self.is_taken():
            self._refuse_foreign(install)
            self._give_to(account)
        if self.path.stat().st_uid != (account.uid if account else os.geteuid()):
            raise ServerError(f"{self.path} belongs to another account", hint="choose another data folder")
        return account

    def _check_the_way(self, account: Account | None) -> None:
        parent = next(path for path in self.path.parents if path.exists())
        if account and not permits(account, "x", parent):
            raise ServerError(
                f"the account {account.name!r}, which would run the server for root, cannot enter {parent}",
                hint="choose a data folder that it can reach, such as /var/lib/pgmeaning/server",
            )

    def _refuse_foreign(self, install: Install) -> None:
        names = os.listdir(self.path)
        if "pgmeaning.lock" in names:  # another process has just taken it
            return
        if "PG_VERSION" in names:
            self._check_version(install)
            raise ServerError(f"{self.path} is a cluster that pgmeaning did not make", hint="choose an empty folder")
        self._refuse_strangers(names)

    def _refuse_strangers(self, names: list[str]) -> None:
        """Refuse a folder with other files in it: never overwrite or remove anybody else's files."""
        if any(not name.startswith(("pgmeaning.", "lost+found")) for name in names):
            raise ServerError(f"{self.path} is neither empty nor a cluster", hint="choose an empty folder")

    def _give_to(self, account: Account | None) -> None:
        if account and self.path.stat().st_uid == 0:
            os.chown(self.path, account.uid, account.gid)
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o700)  # PostgreSQL refuses a folder that others can read

    @contextlib.contextmanager
    def locked(self, account: Account | None, patience: float) -> Iterator[None]:
        """Hold the lock: one process at a time starts or stops the server."""
        with contextlib.suppress(FileExistsError):
            os.close(_create(self._ours("lock"), account))
        lock = os.open(self._ours("lock"), os.O_RDWR | os.O_NOFOLLOW)
        try:
            if not wait_for(lambda: _try_lock(lock), patience):
                raise ServerError(f"another process is still starting or stopping the server of {self.path}")
            yield
        finally:
            os.close(lock)

    def settle(self, install: Install, account: Account | None, *, sync: bool) -> None:
        """Turn the folder, in whatever state an earlier process left it, into a cluster that can be started."""
        self._forget_the_dead()
        self._forget_the_unreadable()
        for unfinished in self.path.glob("pgmeaning.initdb-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        made = self._ours("cluster")
        if not made.exists() and not (self.path / "PG_VERSION").exists():
            self._refuse_strangers(os.listdir(self.path))
            self._initdb(install, account, sync).rename(made)
        if made.exists():
            self._move_into_place(made)
        self._check_version(install)
        self.password()  # before there is a server that nobody can log in to

    def _forget_the_dead(self) -> None:
        """Remove a killed server's lock files if another process or a zombie has its id: PostgreSQL trusts them."""
        postmaster = self.postmaster()
        if postmaster is None or serves(postmaster.pid, self.path) is not False:
            return
        drop_socket_folder(postmaster.socket_folder)
        # PostgreSQL itself handles an id that is free. In both cases it still refuses to start beside surviving
        # sessions, which it detects by their shared memory.
        if _exists(postmaster.pid):
            self._drop_locks()

    def _forget_the_unreadable(self) -> None:
        """Remove lock files that name no process, as a system crash leaves them: PostgreSQL would not start."""
        # If it is readable a moment later, it was being written, by a server whose starter was killed.
        wait_for(lambda: self._unreadable_lock() is None or self._is_idle(), DYING_SECONDS)
        if (unreadable := self._unreadable_lock()) is None:
            return
        if not self._is_idle():
            raise ServerError(
                f"{unreadable} names no process, and a PostgreSQL server may be using its folder",
                hint="stop that server; if there is none, remove the file",
            )
        self._drop_locks()

    def _unreadable_lock(self) -> Path | None:
        locks = (self.path / "postmaster.pid", *self.path.glob(".s.PGSQL.*.lock"))
        return next((lock for lock in locks if not _names_a_process(lock)), None)

    def _is_idle(self) -> bool:
        """Whether no process can be a server of this folder."""
        return all(serves(pid, self.path) is False for pid in _processes())

    def _drop_locks(self) -> None:
        for lock in (self.path / "postmaster.pid", *self.path.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    def _initdb(self, install: Install, account: Account | None, sync: bool) -> Path:
        """Make a cluster under a new temporary name: a killed predecessor's initdb may still be at work on its own."""
        self._write_password(account)
        place = self._ours(f"initdb-{os.urandom(4).hex()}")
        options = {
            "pgdata": place,
            "username": "postgres",
            "auth": "scram-sha-256",
            "pwfile": self._ours("password"),
            "encoding": "UTF8",
            "locale-provider": "builtin",
            "builtin-locale": "C.UTF-8",
            "locale": "C" if sys.platform == "darwin" else "C.UTF-8",  # libc's, which older macOS lacks
        }
        command = [str(install.program("initdb")), *(f"--{name}={value}" for name, value in options.items())]
        command += ["--set=timezone=UTC", "--set=log_timezone=UTC", "--no-instructions"]
        run(command + ["--no-sync"] * (not sync), account)
        return place

    def _move_into_place(self, made: Path) -> None:
        """Move a complete cluster into place; PG_VERSION last, so that its presence vouches for all the rest."""
        for name in sorted(os.listdir(made), key=lambda name: (name == "PG_VERSION", name)):
            (made / name).rename(self.path / name)
        made.rmdir()

    def _check_version(self, install: Install) -> None:
        ours, found = install.version().split(".")[0], (self.path / "PG_VERSION").read_text().strip()
        if found != ours:
            raise ServerError(
                f"{self.path} was made by PostgreSQL {found}, but this is PostgreSQL {ours}",
                hint=f"dump it with PostgreSQL {found}, and restore it into another data folder",
            )

    def _write_password(self, account: Account | None) -> None:
        fresh = self._ours("password.new")
        fresh.unlink(missing_ok=True)
        with open(_create(fresh, account), "w") as file:
            file.write(os.urandom(16).hex() + "\n")
        fresh.rename(self._ours("password"))

    def password(self) -> str:
        if (content := read(self._ours("password"))) is None:
            raise ServerError(
                f"{self._ours('password')} is missing",
                hint="pgmeaning did not make this cluster, or somebody removed the file",
            )
        return content.decode().strip()

    def log_text(self, since: int = 0) -> str:
        """The text of the server's log from this byte on; empty if there is no log."""
        return (read(self.log) or b"")[since:].decode(errors="replace")

    @contextlib.contextmanager
    def fresh_log(self, account: Account | None) -> Iterator[BinaryIO]:
        """An empty log to append to; the previous one is kept, and only that one."""
        with contextlib.suppress(FileNotFoundError):
            self.log.rename(self._ours("log.1"))
        with open(_create(self.log, account), "ab") as file:
            yield file

    def socket_folder(self, account: Account | None) -> str:
        """The folder for sockets: the data folder, or a private one if the path would be too long."""
        if len(os.fsencode(self.path / ".s.PGSQL.65535")) <= LONGEST_SOCKET_PATH:
            return str(self.path)
        import tempfile  # rarely needed, and slow to import

        parent, prefix = os.path.split(SHORT_SOCKET_FOLDER)
        folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
        if account:
            os.chown(folder, account.uid, account.gid)
        return folder

    def last_port(self) -> int | None:
        """The port of the last start, which PostgreSQL records with its other options."""
        found = re.search(rb'"port=(\d+)"', read(self.path / "postmaster.opts") or b"")
        return int(found[1]) if found else None

    def postmaster(self) -> Postmaster | None:
        """The contents of postmaster.pid, current or stale; None if it is missing or incomplete."""
        text = os.fsdecode(read(self.path / "postmaster.pid") or b"")
        try:
            pid, _, _, port, sockets, *rest = (line.rstrip() for line in text.splitlines())
            return Postmaster(int(pid), int(port), sockets, rest[-1:] == ["ready"])
        except ValueError:
            return None

    def server(self) -> Postmaster | None:
        """The server of this folder, if it is running."""
        postmaster = self.postmaster()
        return postmaster if postmaster and serves(postmaster.pid, self.path) else None


def read(path: Path) -> bytes | None:
    """The contents of a file that another process may move or remove meanwhile; None if it does not exist.

    Checking for it first and then reading it would be a race.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def drop_socket_folder(folder: str) -> None:
    """Remove a private socket folder, and nothing in it but sockets: whatever the argument, it must not remove data."""
    if folder.startswith(SHORT_SOCKET_FOLDER):
        with contextlib.suppress(OSError):  # another process removes it too
            for socket in Path(folder).glob(".s.PGSQL.*"):
                socket.unlink(missing_ok=True)
            os.rmdir(folder)


def serves(pid: int, data_dir: Path) -> bool | None:
    """Whether this process is the server of the folder; None if it is a PostgreSQL whose folder cannot be seen."""
    if _program(pid) != "postgres":
        return False
    with contextlib.suppress(OSError):  # not Linux, or a container's root, which may not look at another account's
        return os.readlink(f"/proc/{pid}/cwd") == str(data_dir)
    return True if f" -D {data_dir} " in _command(pid) else None


def _names_a_process(lock: Path) -> bool:
    """Whether PostgreSQL can read a process id in it (negative in single-user mode); true if the file is gone."""
    content = read(lock)
    return content is None or re.match(rb"-?[1-9]", content) is not None


def _processes() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    ps = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True)
    return [int(pid) for pid in ps.stdout.split()]


def alive(pid: int) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self").exists() and _exists(pid)


def _exists(pid: int) -> bool:
    """Whether the id is in use, even by a zombie."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() if alive(pid) else ""
    return os.path.basename(_ps(pid, "comm"))


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ")
    return _ps(pid, "command")


def _ps(pid: int, column: str) -> str:
    """One column of ps, for systems without /proc."""
    with contextlib.suppress(FileNotFoundError):
        ps = subprocess.run(["ps", "-ww", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True)
        return ps.stdout.strip()
    return ""


def _try_lock(file: int) -> bool:
    import fcntl  # missing on Windows, where the rest of the package works

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create(path: Path, account: Account | None) -> int:
    """Create a file that only the account can read; fails if the file exists."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    if account:
        os.fchown(file, account.uid, account.gid)
    return file
