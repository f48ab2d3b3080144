"""Real virtual environments that hold exactly the distributions a test wants, made in a fraction of a second.

Their site-packages is filled with links to what is installed in the running environment.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .distributions import record_text
from .files import Files

__all__ = ["Environment", "closure"]


class _Builder(venv.EnvBuilder):
    """An environment needs no activation scripts here."""

    def setup_scripts(self, context: SimpleNamespace) -> None:
        pass


@dataclass(frozen=True)
class Environment:
    """A virtual environment in ``folder``; further distributions may be written into ``site``."""

    folder: Path
    python: Path
    site: Path

    @classmethod
    def create(cls, folder: Path, packages: Iterable[str] = (), *, without: Iterable[str] = ()) -> Environment:
        """Make an environment of these distributions and all that they require, but for those left out.

        ``packages`` are requirements such as "pytest" or "pytest-bionemo[torch]"; their versions are ignored.
        """
        place = folder / "venv"
        _Builder(symlinks=True, with_pip=False).create(place)
        site = place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        for name in closure(packages, without=without):
            _install(name, site)
        for own in ("home", "tmp"):
            (folder / own).mkdir()
        return cls(folder=folder, python=place / "bin" / "python", site=site)

    def run(
        self,
        args: Sequence[str | Path],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        user: int | None = None,
        files: Files | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python with these arguments, and nothing of the outer process's variables.

        After ``timeout`` seconds the child and its process group are killed and TimeoutExpired is raised,
        with what was written until then as text. As another ``user`` (for root only), home and TMPDIR are
        that user's own; the interpreter and all folders above must be open to it (see :meth:`open_to`). With
        ``files`` it runs on a node that has these.
        """
        home, tmp = self.folder / "home", self.folder / "tmp"
        if user is not None:
            home, tmp = (path.with_name(f"{path.name}-{user}") for path in (home, tmp))
            for path in (home, tmp):
                path.mkdir(exist_ok=True)
                os.chown(path, user, _group_of(user))
        environ = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.defpath}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(tmp),
            **(env or {}),
        }
        command = [str(self.python), *map(str, args)]
        command = files.command(command) if files else command
        # Files and not pipes: a grandchild that outlives the child must not hold up the answer.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                user=user,
                group=None if user is None else _group_of(user),
                extra_groups=None if user is None else (),
            )
            try:
                child.wait(timeout)
            except BaseException as error:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise subprocess.TimeoutExpired(command, timeout, _text(stdout), _text(stderr)) from None
                raise
            return subprocess.CompletedProcess(command, child.returncode, _text(stdout), _text(stderr))

    def open_to(self, user: int) -> bool:
        """Whether that user can run the environment's Python at all: it may lie behind a closed folder."""
        try:
            return self.run(["-c", "import encodings"], cwd=Path("/"), user=user).returncode == 0
        except PermissionError:
            return False


def _group_of(user: int) -> int:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return user


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "backslashreplace")


def closure(packages: Iterable[str], *, without: Iterable[str] = ()) -> list[str]:
    """The canonical names of these distributions and of all that they require here."""
    skipped = {canonicalize_name(name) for name in without}
    pending = [Requirement(package) for package in packages]
    extras_done: dict[str, set[str]] = {}
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if name in skipped:
            continue
        done = extras_done.setdefault(name, set())
        new = {"", *wanted.extras} - done
        done |= new
        for text in (_distribution(name).requires or []) if new else []:
            dependency = Requirement(text)
            marker = dependency.marker
            if any(marker.evaluate({"extra": extra}) if marker else not extra for extra in new):
                pending.append(dependency)
    return sorted(extras_done)


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise LookupError(f"{name} is not installed in the environment that runs the tests") from error


def _install(name: str, site: Path) -> None:
    distribution = _distribution(name)
    if _is_editable(distribution):
        _install_editable(name, distribution, site)
        return
    for relative, source in _links(name):
        link = site / relative
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(source)


@functools.cache
def _links(name: str) -> tuple[tuple[str, Path], ...]:
    """What to link for a distribution, by its path there: whole packages and dist-info folders, else files.

    A folder without ``__init__`` may be shared with other distributions, so that only its content is linked.
    """
    distribution = _distribution(name)
    files = distribution.files
    if files is None:
        raise LookupError(f"{name} has no RECORD, so what belongs to it is not known")
    base = Path(str(distribution.locate_file("")))
    links: dict[str, Path] = {}
    whole: dict[tuple[str, ...], bool] = {}
    for file in files:
        parts = file.parts
        if ".." in parts or file.is_absolute():
            continue
        relative = parts
        for depth in range(1, len(parts)):
            folder = parts[:depth]
            if folder not in whole:
                is_info = folder[-1].endswith((".dist-info", ".egg-info"))
                whole[folder] = is_info or (base.joinpath(*folder) / "__init__.py").exists()
            if whole[folder]:
                relative = folder
                break
        source = base.joinpath(*relative)
        if source.exists():
            links["/".join(relative)] = source
        if len(parts) == 1 and parts[0].endswith(".py"):  # the module's bytecode, or every environment compiles it
            bytecode = Path(importlib.util.cache_from_source(str(source)))
            if bytecode.exists():
                links[f"__pycache__/{bytecode.name}"] = bytecode
    return tuple(links.items())


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    origin = distribution.read_text("direct_url.json")
    return bool(origin and json.loads(origin).get("dir_info", {}).get("editable"))


def _install_editable(name: str, distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Install as a wheel would have: packages linked, metadata copied, no path to the source folder."""
    modules = (distribution.read_text("top_level.txt") or name.replace("-", "_")).split()
    info = f"{name.replace('-', '_')}-{distribution.version}.dist-info"
    rows = [[f"{info}/RECORD", "", ""]]
    (site / info).mkdir()
    for document in ("METADATA", "WHEEL", "INSTALLER", "entry_points.txt", "top_level.txt"):
        text = distribution.read_text(document)
        if text is not None:
            (site / info / document).write_text(text, "utf-8")
            rows.append([f"{info}/{document}", "", ""])
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or not (spec.submodule_search_locations or spec.origin):
            raise LookupError(f"{name} is installed, but its module {module} is not found")
        places = list(spec.submodule_search_locations or [str(spec.origin)])
        source = Path(places[0])
        (site / source.name).symlink_to(source)
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        rows += [
            [path.relative_to(source.parent).as_posix(), "", ""]
            for path in found
            if path.is_file() and "__pycache__" not in path.parts
        ]
    (site / info / "RECORD").write_text(record_text(rows), "utf-8")
