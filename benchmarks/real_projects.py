"""Two projects that nobody here wrote, with the plugin and without: ``python benchmarks/real_projects.py``.

Fetches their source distributions, runs their own tests with their own conftest and settings in two environments that
differ in the plugin alone, compares the outcome of every test, and measures what the plugin adds to the start.
Needs Python 3.11 and the package index; all that it makes goes to .ci/real-projects, and is used again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from xml.etree import ElementTree

from _measure import report, run_once

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".ci" / "real-projects"
TIME_LIMIT = 1.05
DEADLINE_S = 600
PYTEST = "pytest==9.2.0"


@dataclass(frozen=True)
class Project:
    """A source distribution that carries its tests, what these need, and which of them are run."""

    name: str
    version: str
    sha256: str
    needs: tuple[str, ...]
    tests: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


PROJECTS = (
    # --strict-markers, --strict-config, xfail_strict, an autouse fixture in the conftest, asyncio_mode = auto.
    Project(
        "structlog",
        "26.1.0",
        "f63a716cbd1b1291cf7661de7794b455acfa4c43c5bcf1630e6ad5ddc1adb3b7",
        needs=("pytest-asyncio==1.5.0", "simplejson==4.3.0", "time-machine==3.6.0"),
    ),
    # filterwarnings = error, --strict-markers, xfail_strict, --doctest-plus, --pyargs, a pytest plugin of its own.
    # Left out: the statistics, thousands of tests, and the arrays for which each test compiles code.
    Project(
        "fast-array-utils",
        "1.3.1",
        "34d175a63e9208c6fcbcb3cc18f75480ecdeaeed248759da0e74ab8fbcf55808",
        needs=(
            "dask==2026.8.0",
            "numba==0.68.1",
            "numpy==2.4.6",
            "pytest-codspeed==5.0.4",
            "pytest-doctestplus==1.7.1",
            "scipy==1.17.1",
        ),
        tests=("tests/test_to_dense.py", "tests/test_test_utils.py"),
    ),
)


class NotFetched(Exception):
    """What a project needs is not here and cannot be fetched."""


@dataclass(frozen=True)
class Result:
    """What one run of a project's tests left behind: ``files`` are those that it added to the project's folder."""

    status: int
    plugins: str
    outcomes: Counter[tuple[str, str]]
    files: frozenset[str]


@dataclass(frozen=True)
class Pair:
    """One project in two environments that differ in the plugin alone."""

    project: Project
    sdist: Path
    without: Path
    with_plugin: Path

    def results(self, scratch: Path) -> tuple[Result, Result]:
        """The project's tests run without the plugin, and with it."""
        without = run_tests(self.without, self.sdist, scratch / "without", self.project.tests)
        return without, run_tests(self.with_plugin, self.sdist, scratch / "with", self.project.tests)


# ---- environments


def prepare(project: Project, folder: Path) -> Pair:
    """Fetch a project and make its two environments; the one with the plugin is always made anew.

    Both see one folder of packages, so that they differ in the plugin and what it requires alone.
    Raises NotFetched if the package index does not answer.
    """
    place = folder / project.name
    pins = "\n".join([sys.version, str(project), project.sha256, PYTEST, *project.needs])
    done = place / "pins.txt"
    if not done.exists() or done.read_text() != pins:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _fetch(project, place)
        base = _environment(place / "base")
        _pip("install", base, PYTEST, f"{project.name}=={project.version}", *project.needs)
        done.write_text(pins)
    without, with_plugin = (_environment(place / name, on=place / "base") for name in ("without", "with"))
    _pip("install", with_plugin, str(ROOT))
    return Pair(project, next(place.glob("*.tar.gz")), without, with_plugin)


def _fetch(project: Project, place: Path) -> None:
    wanted = place / "sdist.txt"
    wanted.write_text(f"{project.name}=={project.version} --hash=sha256:{project.sha256}\n")
    only_source = ("--no-deps", "--no-binary", project.name, "--require-hashes")
    _pip("download", Path(sys.executable), *only_source, "--dest", str(place), "-r", str(wanted))


def _environment(place: Path, on: Path | None = None) -> Path:
    """Make a virtual environment, which sees the packages of another one; returns its interpreter."""
    venv.create(place, symlinks=True, clear=True)
    if on:
        _site(place).joinpath("base.pth").write_text(f"{_site(on)}\n")
    return place / "bin" / "python"


def _site(place: Path) -> Path:
    return place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _pip(action: str, interpreter: Path, *arguments: str) -> None:
    compiling = ("--no-compile",) if action == "install" else ()  # the first run compiles what it imports
    command = [sys.executable, "-m", "pip", "--python", str(interpreter), action, "--quiet", *compiling, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise NotFetched(f"pip {action}: no end within {DEADLINE_S} s") from None
    if done.returncode:
        raise NotFetched(f"pip {action}: {''.join(done.stderr.strip().splitlines()[-1:])}")


# ---- outcomes


def run_tests(interpreter: Path, sdist: Path, scratch: Path, tests: Sequence[str] = ()) -> Result:
    """Unpack a project and run its tests; nothing is added to its settings but a JUnit file."""
    project = unpack(sdist, scratch)
    before = _files(project)
    outcomes = scratch / "outcomes.xml"
    command = [str(interpreter), "-m", "pytest", *tests, f"--junitxml={outcomes}"]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    if not outcomes.exists():
        raise RuntimeError(f"no test of {sdist.name} has run:\n{done.stdout}{done.stderr}")
    plugins = re.search(r"^plugins: (.*)$", done.stdout, re.MULTILINE)
    added = frozenset(_files(project) - before)
    return Result(done.returncode, plugins[1] if plugins else "", read_outcomes(outcomes), added)


def unpack(sdist: Path, scratch: Path) -> Path:
    """Unpack a source distribution into an empty folder; returns the project's own folder in it."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    return next(path for path in scratch.iterdir() if path.is_dir())


def environment() -> dict[str, str]:
    """The variables of this process, without those that change a run of pytest or where Python looks."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV_"))}


def read_outcomes(junit: Path) -> Counter[tuple[str, str]]:
    """How often each test id ended in which way, by pytest's own JUnit file."""
    cases = ElementTree.parse(junit).iter("testcase")
    return Counter((f"{case.get('classname')}::{case.get('name')}", _outcome(case)) for case in cases)


def _outcome(case: ElementTree.Element) -> str:
    ends = [
        f"{end.tag} {end.get('type') or ''}".strip() for end in case if end.tag in ("failure", "error", "skipped")
    ]
    return ", ".join(ends) or "passed"


def _files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if not {"__pycache__", ".pytest_cache"} & set(path.parts)}


def differences(without: Result, with_plugin: Result) -> list[str]:
    """All that differs between two runs, a line each."""
    lines = []
    if without.status != with_plugin.status:
        lines.append(f"exit status: {without.status} without the plugin, {with_plugin.status} with it")
    for words, ours, theirs in (("without", without, with_plugin), ("with", with_plugin, without)):
        lines += [f"only {words} the plugin: {name}: {end}" for name, end in (ours.outcomes - theirs.outcomes)]
        lines += [f"only {words} the plugin: the file {name}" for name in sorted(ours.files - theirs.files)]
    return lines


# ---- time


@dataclass(frozen=True)
class Start:
    """How much more a start costs with the plugin, a ratio for each round.

    ``processor`` and ``clock`` are of all that it brings, ``own`` is processor time without what it requires.
    """

    processor: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


def measure_start(pair: Pair, rounds: int, scratch: Path) -> Start:
    """Run ``pytest --collect-only -q`` in the project's folder in each of three ways in turn, so many rounds."""
    project = unpack(pair.sdist, scratch)
    ways = {
        "without": [str(pair.without), "-m", "pytest"],
        "requirements": [str(pair.with_plugin), "-m", "pytest", "-p", "no:bionemo"],
        "plugin": [str(pair.with_plugin), "-m", "pytest"],
    }
    start = Start()
    for number in range(rounds + 1):
        order = sorted(ways, reverse=bool(number % 2))
        costs = {way: run_once([*ways[way], "--collect-only", "-q"], project, environment()) for way in order}
        if number:  # the first round warms the disk cache
            without, requirements, plugin = (costs[way] for way in ways)
            start.processor.append(plugin.processor_seconds / without.processor_seconds)
            start.clock.append(plugin.seconds / without.seconds)
            start.own.append(plugin.processor_seconds / requirements.processor_seconds)
    return start


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    """Compare and measure; returns 1 if an outcome differs or the start takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20, help="of measuring the start, at least 2")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what was fetched stays here")
    options = parser.parse_args()
    folder = options.folder.resolve()
    kept = True
    print(f"start with / without the plugin: medians (quartiles) of {options.rounds} rounds, in turn")
    print(f"{'project':24}{'tests':>6}  {'outcomes':10}{'processor time':24}{'wall clock':24}processor, own part")
    for project in PROJECTS:
        pair = prepare(project, folder)
        without, with_plugin = pair.results(folder / project.name / "scratch")
        lines = differences(without, with_plugin)
        start = measure_start(pair, options.rounds, folder / project.name / "scratch" / "start")
        result = "DIFFER" if lines else "equal"
        spreads = "".join(f"{_spread(ratios):24}" for ratios in (start.processor, start.clock, start.own))
        print(f"{project!s:24}{without.outcomes.total():6}  {result:10}{spreads}".rstrip())
        for line in lines:
            print(f"    {line}")
        # Judged by processor time: what else the machine does falls on one start and not on the other.
        kept &= not lines and report("  start, processor time", median(start.processor), TIME_LIMIT)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
