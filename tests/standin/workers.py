"""Faults in the processes of the workers: Python code that runs there as soon as torch has been imported."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_spoiler"]

# Python runs it at the start of every process that has the folder on its path; only workers mind it.
_SITECUSTOMIZE = """
import sys
from importlib.machinery import PathFinder

LABEL = {label!r}
CODE = {code!r}


class Spoiler:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(cls)
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def load_and_spoil(module):
            load(module)
            exec(compile(CODE, "<spoilt>", "exec"), {{"torch": module}})

        spec.loader.exec_module = load_and_spoil
        return spec


def label_of_this_worker():
    arguments = sys.orig_argv
    if "-c" in arguments and "pytest_bionemo.worker import serve" in arguments[arguments.index("-c") + 1]:
        return arguments[arguments.index("-c") + 3]


if label_of_this_worker() and LABEL in (None, label_of_this_worker()):
    sys.meta_path.insert(0, Spoiler)
"""


def write_spoiler(folder: Path, code: str, label: str | None = None) -> None:
    """Have the workers that find this folder on their path run the code, with ``torch`` in scope.

    ``label`` is that of the one device whose worker is meant; None: all of them.
    """
    compile(code, "<spoilt>", "exec")
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(label=label, code=code))
