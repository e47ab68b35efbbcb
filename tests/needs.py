"""What a test needs and a machine may lack: without it the test is skipped, and under CI it fails.

A test that CI skips is a test that nobody runs; `.ci/run` installs what is named here.
"""

from __future__ import annotations

import importlib
import os
import shutil
import warnings
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
