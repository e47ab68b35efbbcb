"""The demo's data, which every machine has: the docstrings of Python's standard library, a row a function or class.

Modules written in Python are parsed, not imported: importing some opens a browser or a window. Those written in C have
no source, so they are imported, which does nothing else.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.machinery import BuiltinImporter, PathFinder
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# Not for users of the library, or about Python 2, or examples.
SKIPPED = {"antigravity", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "this", "turtledemo"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Docstring(NamedTuple):
    """One function or class; `doc` is the first paragraph of its docstring."""

    module: str
    name: str
    signature: str
    doc: str


def docstrings() -> list[Docstring]:
    """Every documented public function and class, sorted, without duplicates."""
    found = {(row.module, row.name): row for name in _public_modules() for row in _of_module(name)}
    return [found[key] for key in sorted(found)]


def _public_modules() -> list[str]:
    return sorted(name for name in sys.stdlib_module_names if not name.startswith("_") and name not in SKIPPED)


def _of_module(name: str) -> Iterator[Docstring]:
    if BuiltinImporter.find_spec(name):
        return _of_compiled(name)
    spec = PathFinder.find_spec(name, [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *sys.path])
    if spec is None or spec.origin is None:
        return iter(())
    origin = Path(spec.origin)
    if origin.suffix != ".py":
        return _of_compiled(name)
    return _of_package(name, origin.parent) if origin.name == "__init__.py" else _of_source(name, origin)


def _of_package(name: str, folder: Path) -> Iterator[Docstring]:
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder).with_suffix("").parts
        if SKIPPED.isdisjoint(inner) and not any(part.startswith("_") and part != "__init__" for part in inner):
            yield from _of_source(".".join([name, *(part for part in inner if part != "__init__")]), path)


def _of_source(module: str, path: Path) -> Iterator[Docstring]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_bytes())
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield from _row(module, node.name, _signature(node), ast.get_docstring(node))


def _signature(node: Definition) -> str:
    return f"({', '.join(_argument_names(node.args))})" if not isinstance(node, ast.ClassDef) else ""


def _argument_names(arguments: ast.arguments) -> Iterator[str]:
    yield from (argument.arg for argument in [*arguments.posonlyargs, *arguments.args])
    if arguments.vararg:
        yield "*" + arguments.vararg.arg
    elif arguments.kwonlyargs:
        yield "*"
    yield from (argument.arg for argument in arguments.kwonlyargs)
    if arguments.kwarg:
        yield "**" + arguments.kwarg.arg


def _of_compiled(name: str) -> Iterator[Docstring]:
    try:
        module = importlib.import_module(name)
    except ImportError:  # of another system, or left out when this Python was built
        return
    for attribute, thing in _public_callables(module):
        public = "os" if name == "posix" else name
        first_line, _, rest = (inspect.getdoc(thing) or "").partition("\n")
        if call := re.match(r"\w+(\(.*)", first_line):  # "sleep(seconds)", an empty line, and then the text
            yield from _row(public, attribute, call[1].split(" -> ")[0], rest)
        else:
            yield from _row(public, attribute, _inspected(thing), f"{first_line}\n{rest}")


def _public_callables(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name, thing in sorted(vars(module).items()):
        if not name.startswith("_") and (inspect.isroutine(thing) or inspect.isclass(thing)):
            yield name, thing


def _inspected(thing: object) -> str:
    try:
        return "" if inspect.isclass(thing) else str(inspect.signature(thing))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""


def _row(module: str, name: str, signature: str, docstring: str | None) -> Iterator[Docstring]:
    first, _, rest = (docstring or "").strip().partition("\n\n")
    if rest and re.fullmatch(r"[\w.]+\(.*\)( ->.*)?", first):  # "removedirs(name)", an empty line, and then the text
        first = rest.strip().partition("\n\n")[0]
    doc = " ".join(first.split())
    if doc:
        yield Docstring(module, name, signature, doc)
