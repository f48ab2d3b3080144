"""The BioNeMo packages: whole, made for this machine, with what they need, importable, and working."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from pytest_bionemo import fixes, rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import family, stack
from pytest_bionemo.model import count
from pytest_bionemo.probes import packages, requirements
from pytest_bionemo.probes.bionemo import BionemoPackage
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.imports import Imported, ImportFailure
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.requirements import Requirement
from pytest_bionemo.terms import Severity
from pytest_bionemo.workloads.package_noodles import SEQUENCES
from pytest_bionemo.workloads.package_scdl import CELLS, GENES

# Those that everybody has heard of, and of the others those that are here.
_NAMES = [known.name for known in family.packages() if known.named or packages.find(known.name)]
_each_package = pytest.mark.parametrize("name", _NAMES, ids=str)
_NAMED_AT_MOST = 3
_CACHE = "BIONEMO_CACHE_DIR"


# -------------------------------------------------------------------------------------- what the metadata say


@check(about="{name}")
@_each_package
def is_whole(package: BionemoPackage, name: str) -> None:
    """The installed package is complete.

    Why: a damaged installation fails at its import, or later, and pip can neither verify nor remove it.

    How it decides: metadata, version and list of files are read: each file has to be there, and the package installed
    once.

    Fix: install the package again.
    """
    found = package.found
    assert found, "only installed packages come here"
    if found.version is None:
        fail(
            f"the metadata of {name} cannot be read",
            why="an installation was interrupted",
            fix=_install(name, "--force-reinstall", "--no-deps"),
        )
    if not found.has_valid_version:
        fail(
            f"the version of {name} is {found.version!r}, which is no version (PEP 440)",
            why="nothing can be said of what fits it, and pip does not take it",
            fix=_install(name, "--force-reinstall", "--no-deps"),
        )
    if found.damage:
        fail(
            f"{name} {found.version}: {found.damage}",
            why="imports fail now or later, and pip can neither verify nor remove it",
            fix=["take what is left of it away, its .dist-info folder as well, and install it once:", _install(name)],
        )
    if found.duplicates:
        fail(
            f"{name} is installed more than once: {found.version}, {', '.join(found.duplicates)}",
            why="an installation was interrupted, or two folders of sys.path hold it",
            fix=[
                "uninstall it, repeated until nothing is left:",
                f"$ pip uninstall {name}",
                "then install it once:",
                _install(name),
            ],
        )
    if found.missing:
        fail(
            f"{name} {found.version} lacks {len(found.missing)} of its files, such as {found.missing[0]}",
            why="the installation is damaged: imports fail now or later",
            fix=_install(name, "--force-reinstall", "--no-deps"),
        )


def _install(name: str, *options: str) -> str:
    known = family.find(name)
    if not known.on_pypi:  # whatever somebody may publish there under its name is not it
        return f"install it again from where it came: it is not on PyPI ({known.fate})"
    return " ".join(["$ pip install", *options, name])


@check(about="{name}")
@_each_package
def fits_platform(package: BionemoPackage, name: str, host: Host) -> None:
    """The installed package is made for this Python and this processor.

    Why: a package for another Python or processor was installed past pip's own check, as on a file system that
    several machines share; its compiled part does not import.

    How it decides: it compares Requires-Python and the tags of the wheel with this interpreter and this processor.

    Fix: use a Python and a processor that the package is built for.
    """
    found = package.found
    assert found, "only installed packages come here"
    here = f"Python {host.python} on {host.machine}"
    if found.requires_python and not _admits(found.requires_python, host.python):
        fail(
            f"{name} {found.version} needs Python {found.requires_python}, this is {host.python}",
            why="the package was installed past pip's own check",
            fix=f"use a Python of {found.requires_python}",
        )
    if not packages.is_for_this_python(name):
        tags = sorted(map(str, packages.wheel_tags(name)))
        fail(
            f"{name} {found.version} is built for {', '.join(tags[:_NAMED_AT_MOST])}; this is {here}",
            why="it was installed for another machine, as on a file system that several share: its compiled part "
            "does not import",
            fix=package.known.obstacle(host.python, host.machine) or _install(name, "--force-reinstall", "--no-deps"),
        )


def _admits(specifier: str, python: str) -> bool:
    try:
        return SpecifierSet(specifier, prereleases=True).contains(python)
    except InvalidSpecifier:  # pip ignores it, too
        return True


@check(about="{name}")
@_each_package
def requirements_met(whole_package: BionemoPackage, name: str, machine: Machine) -> None:
    """Everything that the package needs is installed, and so is what that needs in turn.

    Why: what uses a requirement that is missing, or of another version, may fail at once or later.

    How it decides: it follows the requirements of the package, and of what these require, and compares each with what
    is installed. What only a package of others pins is a warning.

    Fix: install what is missing; give packages that exclude each other an environment each.
    """
    # That PyTorch is not there is another check's finding.
    unmet = [one for one in whole_package.unmet if one.name != "torch" or one.installed]
    own = [one for one in unmet if not _needs_through(one, whole_package)]
    if needed := [one for one in own if one.installed is None or one.package in _NAMES]:
        _fail_requirements(needed, machine)
    if unmet and not own:
        other = _needs_through(unmet[0], whole_package)
        wait_for(f"packages::requirements_met[{other}]", f"{other}, which {name} needs, lacks something itself")
    if own:  # a pin of somebody else's, which is often stricter than what works
        _fail_requirements(own, machine, severity="warning")


def _fail_requirements(unmet: Sequence[Requirement], machine: Machine, severity: Severity | None = None) -> NoReturn:
    rivals = {one: _rivals(one) for one in unmet}
    fail(
        "; ".join(_describe(one, rivals[one]) for one in unmet[:_NAMED_AT_MOST])
        + (f"; and {len(unmet) - _NAMED_AT_MOST} more" if len(unmet) > _NAMED_AT_MOST else ""),
        why="what uses it may fail, at once or later: it was not made for this",
        fix=_meet(unmet, rivals, machine),
        severity=severity,
    )


def _needs_through(requirement: Requirement, package: BionemoPackage) -> str | None:
    """The other BioNeMo package that has this requirement, if it is that one's affair."""
    needed = {one.name for one in package.requirements}
    others = [name for name in _NAMES if name in needed and packages.find(name)]
    return next((name for name in others if requirement in requirements.closure(name)), None)


def _rivals(requirement: Requirement) -> list[Requirement]:
    """Who needs another version of the same, so that both cannot be met."""
    others = requirements.on({requirement.name})
    return [other for other in others if other.package != requirement.package and requirement.contradicts(other)]


def _describe(requirement: Requirement, rivals: Sequence[Requirement]) -> str:
    seen = f"{requirement.installed} is installed" if requirement.installed else "it is not installed"
    return "".join(
        [
            f"{requirement.by} {requirement.version} requires {requirement.name}{requirement.specifier}: {seen}",
            *(f", and {rival.by} {rival.version} requires {rival.name}{rival.specifier}" for rival in rivals),
        ]
    )


def _meet(
    unmet: Sequence[Requirement], rivals: Mapping[Requirement, Sequence[Requirement]], machine: Machine
) -> list[str]:
    free = [one for one in unmet if not rivals[one]]
    plain = [f'"{one.name}{one.specifier}"' for one in free if one.name != "torch"]
    torch = [one for one in free if one.name == "torch"]
    pairs = {(one.package, rival.package): None for one in unmet for rival in rivals[one]}
    return [
        # Which builds of PyTorch fit this driver and these GPUs, pip does not know.
        *(fixes.install_torch(machine.gpu_env, machine.host, torch[0].installed) if torch else []),
        *([f"$ pip install {' '.join(dict.fromkeys(plain))}"] if plain else []),
        *(f"give {one} and {rival} an environment each: no version fits both" for one, rival in pairs),
    ]


@check(about="bionemo-*")
def namespace_is_clean() -> None:
    """Nothing on sys.path hides the packages of the namespace bionemo.

    Why: a file of that name hides every BioNeMo package that is not beside it.

    How it decides: bionemo is a namespace that several packages share: no folder of sys.path may hold a bionemo with
    an __init__.py, or a module bionemo.py.

    Fix: remove the file that makes bionemo a package of its own.
    """
    if not any(packages.find(known.name) for known in family.packages()):
        not_applicable("no BioNeMo package is installed")
    if intruder := packages.namespace_intruder("bionemo"):
        fail(
            f"{intruder} makes bionemo a package of its own, and hides every BioNeMo package that is not beside it",
            why="bionemo is a namespace that several packages share: it must have no __init__.py, and no file of its "
            "name may lie on sys.path",
            fix=f"rename or remove {intruder}, or take its folder out of sys.path (PYTHONPATH)",
        )


@check(about="bionemo-core")
def cache_is_writable(host: Host) -> None:
    """The folder for downloads, which importing bionemo.core makes, can be written.

    Why: import bionemo.core makes this folder and fails where it cannot, and downloads of checkpoints go there.

    How it decides: the folder of BIONEMO_CACHE_DIR, or the default, has to be writable, or the nearest folder above
    it, where the default blocks and one that somebody named warns; nothing is made.

    Fix: name a folder that this user can write in BIONEMO_CACHE_DIR.
    """
    if not rules.has_package_with_cache():
        not_applicable("no package that uses the cache is installed")
    told = os.environ.get(_CACHE)
    # As platformdirs has it on Linux; nothing is made here.
    base = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    try:
        folder = Path(told) if told else Path(base).expanduser() / "bionemo"
    except RuntimeError as error:  # a user without a home
        fail(
            f"the default folder of the cache is not known: {error}",
            why="import bionemo.core makes this folder, and fails where it cannot",
            fix=["name a folder that this user can write:", f"$ export {_CACHE}=/path/to/a/folder"],
        )
    if problem := _write_problem(folder):
        fail(
            f"{folder} ({_CACHE if told else 'the default, as ' + _CACHE + ' is not set'}) cannot be "
            f"{'written' if folder.exists() else 'made'}: {problem}",
            why="downloads of checkpoints and data fail"
            if told
            else "import bionemo.core makes this folder, and fails where it cannot",
            fix=["name a folder that this user can write:", f"$ export {_CACHE}=/path/to/a/folder"],
            severity="warning" if told else None,
        )


def _write_problem(folder: Path) -> str | None:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        return f"{existing} is no folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} is not writable for this user"
    return None


# ------------------------------------------------------------------------------------------------- its imports


@check(level="standard", about="{name}")
@_each_package
def imports_deeply(importable_package: BionemoPackage, name: str, machine: Machine) -> None:
    """Every part of the package imports, and does nothing else.

    Why: a package whose top level imports may still fail in the module that a training needs, hours later.

    How it decides: a child process with a deadline imports every module that is on record for the package and
    computes with PyTorch afterwards; imports that fork, or write to stdout, are warnings.

    Fix: install what the first cause names, or the package again.
    """
    seen = importable_package.imported
    called = f"{name} {importable_package.version}"
    if seen.end:
        fail(
            f"importing {called}: {seen.end}",
            why="every program that imports it ends in the same way",
            fix=_after_bad_end(name, seen.end),
        )
    if seen.failures:
        _fail_imports(importable_package, seen, machine.torch_build.cuda)
    if seen.cuda_error:
        fail(
            f"after importing {called}, PyTorch does not compute: {seen.cuda_error}",
            why="the import breaks PyTorch",
            fix=_install(name, "--force-reinstall", "--no-deps"),
        )
    if seen.forks:
        fail(
            f"importing {called} copies the process ({count(seen.forks, 'fork')})",
            why="a copy of a process that uses CUDA or threads can hang",
            fix=f"report it to the authors of {name}",
            severity="warning",
        )
    if seen.noise:
        fail(
            f"importing {called} writes to stdout: {seen.noise!r}",
            why="it ends up in the output of every program that imports it",
            fix=f"report it to the authors of {name}",
            severity="warning",
        )


def _after_bad_end(name: str, end: str) -> list[str]:
    again = _install(name, "--force-reinstall", "--no-deps")
    if end.startswith("no answer within"):
        return ["raise --bionemo-timeout, or look at the disk, if the machine is slow", f"or else: {again}"]
    return ["one of its compiled parts, or of what it needs, may be damaged: install it again", again]


def _fail_imports(package: BionemoPackage, seen: Imported, cuda: str | None) -> None:
    unmet = {one.name for one in package.unmet}
    failures = [failure for failure in seen.failures if _module_of(failure) not in unmet]
    if not failures:
        wait_for(f"packages::requirements_met[{package.name}]", f"{package.name} lacks {seen.failures[0].missing}")
    change = known_cause(package.name, failures, cuda)
    number = f"{len(failures)} of {count(len(package.known.modules), 'module')}"
    fail(
        f"{number} of {package.name} {package.version} {'does' if len(failures) == 1 else 'do'} not import: "
        f"{list_failures(failures)}",
        why=change.what if change else "what needs these modules does not start",
        fix=change.fix if change else _install(package.name, "--force-reinstall", "--no-deps"),
        links=[change.link] if change else [],
    )


def _module_of(failure: ImportFailure) -> str | None:
    """The distribution of the missing module, if it has the same name."""
    return canonicalize_name(failure.missing.partition(".")[0]) if failure.missing else None


def known_cause(name: str, failures: Sequence[ImportFailure], cuda: str | None) -> stack.Change | None:
    """The change on record that explains these failures of this package, None if there is none."""
    told = "\n".join(failure.cause for failure in failures)
    for change in stack.changes():
        if name in change.shown_by and change.matters(packages.version, cuda) and re.search(change.error, told):
            return change
    return None


def list_failures(failures: Sequence[ImportFailure]) -> str:
    """The first modules, each with its cause; a cause is told once."""
    by_cause: dict[str, list[str]] = {}
    for failure in failures:
        by_cause.setdefault(failure.reason, []).append(failure.module)
    listed = [f"{', '.join(modules)}: {cause}" for cause, modules in by_cause.items()]
    more = len(listed) - _NAMED_AT_MOST
    return "; ".join(listed[:_NAMED_AT_MOST]) + (f"; and {count(more, 'other cause')}" if more > 0 else "")


# ------------------------------------------------------------------------------------------------ what it does


@check(level="standard", about="{name}")
@_each_package
def works(imported_package: BionemoPackage, name: str) -> None:
    """The package does what it is for, on a small example.

    Why: a package that imports may still read, write or compute wrongly with the libraries that are installed here.

    How it decides: a child process lets it do its work on a little data of its own, and the result has to be the one
    that is known.

    Fix: install the package again.
    """
    if name not in _JUDGES:
        not_applicable(f"there is no small example for {name}")
    called = f"{name} {imported_package.version}"
    seen = imported_package.imported
    if seen.trial_error or seen.trial is None:
        fail(
            f"{called} does not come through a small example: {seen.trial_error or 'it gave no answer'}",
            why="it would fail in the same way with real data",
            fix=_install(name, "--force-reinstall", "--no-deps"),
        )
    if wrong := _JUDGES[name](seen.trial):
        fail(
            f"{called} gives a wrong result: {wrong}",
            why="data or models would be wrong without a sign of it",
            fix=_install(name, "--force-reinstall", "--no-deps"),
        )


def _judge_core(seen: Mapping[str, Any]) -> str | None:
    expected = {
        "dtypes": {
            "fp16": "float16",
            "bf16": "bfloat16",
            "fp32": "float32",
            "16-mixed": "float16",
            "bf16-mixed": "bfloat16",
        },
        "refused": True,
        "padded": [[1, 2, 3], [4, 0, 0]],
        "mask": [[True, True, True], [True, False, False]],
    }
    return _first_difference(seen, expected)


def _judge_scdl(seen: Mapping[str, Any]) -> str | None:
    if seen["differing"]:
        return f"{seen['differing']} of {CELLS * GENES} elements of a matrix differ after they were written and read"
    expected = {"rows": CELLS, "columns": [GENES], "stored": seen["written"], "batches": [4, 4, 2]}
    return _first_difference(seen, expected)


def _judge_noodles(seen: Mapping[str, Any]) -> str | None:
    expected = {
        "sequences": SEQUENCES,
        "slices": {"chr1": "ACGT", "chr2": "GGGG"},
        # Name, length, offset in the file, letters and bytes of a line (samtools faidx).
        "index": ["chr1\t14\t20\t10\t11", "chr2\t8\t56\t8\t9"],
        "complement": "TTGC",
        "reverse": "GCAA",
        "transcript": "ACGU",
        "back": "ACGT",
    }
    return _first_difference(seen, expected)


def _judge_moco(seen: Mapping[str, Any]) -> str | None:
    if not seen["error"] <= seen["bound"]:
        return (
            f"a flow that starts {seen['start']:.3g} from its target ends {seen['error']:.3g} from it, expected at "
            f"most {seen['bound']:.2g}"
        )
    return None


def _first_difference(seen: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    return next(
        (f"{what} is {seen[what]!r}, expected {value!r}" for what, value in expected.items() if seen[what] != value),
        None,
    )


_JUDGES: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "bionemo-core": _judge_core,
    "bionemo-scdl": _judge_scdl,
    "bionemo-noodles": _judge_noodles,
    "bionemo-moco": _judge_moco,
}
