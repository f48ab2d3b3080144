"""Dated, sourced tables: data that checks judge against, kept out of the code.

Each ``<name>.toml`` in this folder is one table. Every row says where its values come from (``source``),
when they were read (``date``) and how far to trust them (``tag``). This module only reads the files: it
imports nothing else of this package, and importing it costs next to nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["FactsError", "load", "load_all"]

_FOLDER = Path(__file__).parent

# Named, not found by listing the folder: a table whose file is gone must be noticed.
_REQUIRED = frozenset(
    {
        "changes",
        "drivers",
        "esm2",
        "gpus",
        "health",
        "host",
        "instances",
        "lightning",
        "packages",
        "platforms",
        "precision",
        "stack",
        "targets",
        "wheels",
        "xids",
    }
)


class FactsError(Exception):
    """A table of facts is missing or damaged; the message is one line that ends with what to do."""


@functools.cache
def load(name: str) -> Mapping[str, Any]:
    """Return the table ``<name>.toml``, read once per process. Treat it as read-only.

    Raises FactsError when the file cannot be read, is not TOML or is empty.
    """
    return _read(_FOLDER / f"{name}.toml")


def load_all() -> None:
    """Read every table, so that a damaged installation is one error at start-up and not many later.

    Raises FactsError for the first table, in alphabetical order, that cannot be read.
    """
    # A folder that cannot be listed yields no names (or raises, by Python version); the required tables then
    # report the trouble under their own paths.
    try:
        present = {path.stem for path in _FOLDER.glob("*.toml")}
    except OSError:
        present = set()
    for name in sorted(_REQUIRED | present):
        load(name)


def _read(path: Path) -> Mapping[str, Any]:
    """Parse one file; raise FactsError with a single line for whatever is wrong with it."""
    # Imported here because most runs of pytest with this plugin installed never read a table.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise _damaged(path, f"is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise _damaged(path, f"is not valid TOML ({error})") from error
    # A disk that was full during installation leaves files of length zero, and those are valid TOML.
    if not table:
        raise _damaged(path, "is empty")
    return MappingProxyType(table)


def _damaged(path: Path, what: str) -> FactsError:
    return FactsError(" ".join(f"{path} {what}: reinstall pytest-bionemo".split()))
