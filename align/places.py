"""Finding what a BUILD names in a user's code, in that side's own process, and saying where their code fails.

A BUILD is `package.module:name` or `path/to/file.py:name`; the name is "build" if it is left out. Its imports come
from the side's own folder first, if one is given, then from the current one.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from stdc_parity.converters.errors import UsageError

OURS = str(Path(__file__).parent)
_files: dict[str, ModuleType] = {}


def put_first(folder: str) -> None:
    """Let imports look into `folder` before anywhere else. Raises UsageError if there is no such folder."""
    where = Path(folder).resolve()
    if not where.is_dir():
        raise UsageError(f"{folder}: there is no such folder to import from")
    if str(where) in sys.path:
        sys.path.remove(str(where))
    sys.path.insert(0, str(where))


def find(build: str, option: str) -> Any:
    """What a BUILD names. Raises UsageError with the file and line of their code if importing it fails."""
    module = find_module(build.rpartition(":")[0] or build, option)
    name = build.rpartition(":")[2] if ":" in build else "build"
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:8]) or "nothing"
            raise UsageError(f"{option} {build}: {module.__file__} has no {name}", f"It has {there}.")
        found = getattr(found, part)
    return found


def find_module(where: str, option: str) -> ModuleType:
    """The module at a dotted name or a file's path. Raises UsageError as `find`."""
    with calling(f"{option} {where}: importing it", UsageError):
        if where.endswith(".py"):
            return _from_file(Path(where), option)
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
                raise UsageError(
                    f"{option} {where}: there is no module {error.name}",
                    f"Looked for from {', '.join(p or '.' for p in sys.path[:2])}.",
                ) from None
            raise


def _from_file(path: Path, option: str) -> ModuleType:
    """The module in a file, as a part of the package that it is in, so that its relative imports work."""
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"{option} {path}: there is no such file")
    root, dotted = package_of(path)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if root != path.parent:
        return importlib.import_module(dotted)
    if str(path) not in _files:  # a file of that name may be somewhere else on the path, too
        name = path.stem if path.stem not in sys.modules else f"{path.stem}_at_{abs(hash(str(path)))}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _files[str(path)] = module
    return _files[str(path)]


def package_of(path: Path) -> tuple[Path, str]:
    """The folder that a file's outermost package is in, and the file's dotted name from there."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return root, ".".join(path.relative_to(root).with_suffix("").parts)


@contextmanager
def calling(what: str, kind: type[UsageError]) -> Iterator[None]:
    """Run a user's code: what it raises is one message with the place in their code, as an error of `kind`.

    The current folder and the arguments of the process are afterwards what they were.
    """
    folder, arguments = Path.cwd(), list(sys.argv)
    sys.argv[1:] = []
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{what} failed: {describe(error)}") from None
    finally:
        os.chdir(folder)
        sys.argv[:] = arguments


def describe(error: BaseException) -> str:
    """An exception in one line, with the last place in code that is neither ours nor the framework's."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        words = f"sys.exit({error.code!r}) was called"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{words.partition(' (')[0]}, at {error.filename}:{error.lineno}"
    every = traceback.extract_tb(error.__traceback__)
    frames = frames_of(error) or [frame for frame in every if not frame.filename.startswith(OURS)]
    return f"{words}, at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else words


def frames_of(error: BaseException) -> list[traceback.FrameSummary]:
    """Where an exception came through, without our own code, frozen modules and installed packages."""
    return [f for f in traceback.extract_tb(error.__traceback__) if _is_theirs(f.filename)]


def _is_theirs(file: str) -> bool:
    library = str(Path(os.__file__).parent)
    return not (file.startswith((OURS, "<", library)) or "site-packages" in file or "dist-packages" in file)


def call_or_keep(found: Any, is_network: Callable[[Any], bool], arguments: dict[str, Any]) -> Any:
    """`found` called with `arguments` if it is a class or a function, itself if it is a network already."""
    return found if is_network(found) and not isinstance(found, type) else found(**arguments)
