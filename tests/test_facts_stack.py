"""The tables of the stack, of the changes that break it, and of the BioNeMo packages: sourced, dated, consistent."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pytest_bionemo import facts
from pytest_bionemo.checks import shipped
from pytest_bionemo.facts import family, stack, versions
from pytest_bionemo.facts.family import FamilyPackage
from pytest_bionemo.suite import declared_checks, import_checks, topic_of
from test_facts import FOLDER, TAGS, kind_rows, rows

TABLES = ("stack", "changes", "packages")
PACKAGES = kind_rows("packages", "package")

each_package = pytest.mark.parametrize("row", PACKAGES, ids=lambda row: row["name"])
each_change = pytest.mark.parametrize("change", stack.changes(), ids=lambda change: change.id)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_source_date_and_tag(name: str) -> None:
    for kind, row in rows(name):
        assert row["source"].strip(), (kind, row)
        assert row["tag"] in TAGS, (kind, row)
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22), (kind, row)


@pytest.mark.parametrize("name", TABLES)
def test_every_tag_is_explained_at_the_top(name: str) -> None:
    header = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert {line.split()[1] for line in header.splitlines() if line.startswith("#   ") and line[4] != " "} >= TAGS


# ------------------------------------------------------------------------------------------------ the packages


def test_the_seven_that_bionemo_names() -> None:
    assert [row["name"] for row in PACKAGES if row.get("named")] == [
        "bionemo-core",
        "bionemo-llm",
        "bionemo-evo2",
        "bionemo-geneformer",
        "bionemo-scdl",
        "bionemo-moco",
        "bionemo-noodles",
    ]
    assert {row["name"] for row in PACKAGES if row.get("named") and not row["on_pypi"]} == {
        "bionemo-evo2",
        "bionemo-geneformer",
    }


def test_no_package_and_no_module_appears_twice() -> None:
    for key in ("name", "import"):
        values = [row[key] for row in PACKAGES if key in row]
        assert len(set(values)) == len(values)


@each_package
def test_rows_of_packages_are_consistent(row: Mapping[str, Any]) -> None:
    assert row["category"] in {"5D-parallel models", "tooling", "recipes"}
    assert row["status"] in {"alive", "broken", "recipe", "removed"}
    assert row["on_pypi"] == ("latest" in row)
    assert row["on_pypi"] == (row["where"] == "PyPI") or row["status"] == "broken"
    assert ("python" in row) == ("python_reason" in row)
    assert "3.11" in SpecifierSet(row["requires_python"]) & SpecifierSet(row.get("python", ""))
    assert row["fate"]
    assert "\n" not in row["fate"]
    if "import" in row:
        assert row["import"] == "bionemo." + row["name"].removeprefix("bionemo-").replace("-", "_")
    modules = row.get("deep_imports", [])
    assert all(module.startswith((f"{row.get('import')}.", f"{row.get('import')}_")) for module in modules)
    # A plain import hides what is broken.
    assert modules or not (row.get("named") or row["status"] == "broken")


@each_package
def test_what_tries_a_package_is_there(row: Mapping[str, Any]) -> None:
    if "trial" in row:
        module, _, function = row["trial"].partition(":")
        assert find_spec(f"pytest_bionemo.workloads.{module}")
        assert function == "run"


@pytest.mark.parametrize(
    ("name", "python", "machine", "obstacle"),
    [
        ("bionemo-core", "3.13.0", "aarch64", None),
        ("bionemo-moco", "3.12.1", "aarch64", None),
        ("bionemo-moco", "3.13.0", "x86_64", "numpy below 2, which has no wheel for Python 3.13: this is 3.13.0"),
        ("bionemo-scdl", "3.10.9", "x86_64", "needs Python 3.11: this is 3.10.9"),
        ("bionemo-noodles", "3.13.0", "x86_64", "no wheel for Python 3.13.0 on x86_64"),
        ("bionemo-noodles", "3.12.0", "aarch64", "no wheel for Python 3.12.0 on aarch64"),
        ("bionemo-core", "3.9.1", "x86_64", "it needs Python >=3.10, this is 3.9.1"),
        ("bionemo-llm", "3.11.0", "x86_64", "only nemo-toolkit 2.2.1 to 2.6"),
    ],
)
def test_why_a_package_cannot_be_had_is_told(name: str, python: str, machine: str, obstacle: str | None) -> None:
    found = family.find(name).obstacle(python, machine)
    assert (obstacle in found) if obstacle and found else found is obstacle


def test_what_pip_must_be_told_is_told_where_both_are_installed() -> None:
    assert family.together(["bionemo-core", "bionemo-moco", "bionemo-scdl"]) == ("pyarrow<26",)
    assert family.together(["bionemo-core", "bionemo-scdl"]) == ()


def test_a_package_without_known_modules_is_imported_by_its_name() -> None:
    assert family.find("bionemo-recipeutils").modules == ("bionemo.recipeutils",)
    assert family.find("bionemo-fw").modules == ()
    assert FamilyPackage("x", "x", "x", False, ">=3.10", (), "alive", "x").obstacle("3.11", "x86_64") == "x"


def test_images_and_sets_are_complete() -> None:
    assert set(family.containers()) == {"framework", "recipes"}
    assert family.containers()["framework"].image.endswith(":2.7.1")
    assert all("--gpus all" in image.flags for image in family.containers().values())
    assert {"python", "cuda", "torch", "channel", "transformer_engine"} <= set(family.pip_set())


# --------------------------------------------------------------------------------------------------- the stack


def test_every_part_of_the_stack_is_imported_by_one_check() -> None:
    names = [one.name for one in stack.distributions()]
    assert len(set(names)) == len(names)
    assert set(names) >= {
        "transformer-engine", "flash-attn", "megatron-core", "megatron-fsdp", "nemo-toolkit", "lightning",
        "transformers", "accelerate", "torchao",
    }  # fmt: skip
    checks = {
        f"{topic_of(module)}::{name}"
        for module in shipped()
        for name in declared_checks(import_checks(module), "full")
    }
    assert {one.judged_by for one in stack.distributions() if one.judged_by} <= checks


def test_every_window_is_of_something_known_and_can_be_missed() -> None:
    known = {one.name for one in stack.distributions()}
    for window in stack.windows():
        assert window.of in known
        assert window.beside in {None, *known}
        assert SpecifierSet(window.specifier)
        assert window.link.startswith("https://")


@each_change
def test_a_change_says_when_it_matters_and_what_helps(change: stack.Change) -> None:
    assert all(Requirement(text).name for text in change.when)
    assert change.fix
    assert change.link.startswith("https://")
    # What is shown by an import can be told from its error.
    assert bool(change.shown_by) == bool(change.error)
    assert re.compile(change.error)
    known = {known.name for known in family.packages()} | {one.name for one in stack.distributions()}
    assert set(change.shown_by) <= known


def test_changes_have_ids_of_their_own() -> None:
    ids = [change.id for change in stack.changes()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("id", "installed", "cuda", "matters"),
    [
        ("nemo-toolkit-2.7", {"bionemo-llm": "2.4.5", "nemo-toolkit": "2.6.2"}, None, False),
        ("nemo-toolkit-2.7", {"bionemo-llm": "2.4.5", "nemo-toolkit": "2.7.0rc1"}, None, False),
        ("nemo-toolkit-2.7", {"bionemo-llm": "2.4.5", "nemo-toolkit": "2.7.0"}, None, True),
        ("nemo-toolkit-2.7", {"nemo-toolkit": "3.0.0"}, None, False),
        ("pyarrow-26", {"pyarrow": "26.0.1", "numpy": "1.26.4"}, None, True),
        ("pyarrow-26", {"pyarrow": "26.0.1", "numpy": "2.0.0"}, None, False),
        ("pyarrow-26", {"pyarrow": "25.0.1", "numpy": "1.26.4"}, None, False),
        ("pyarrow-26", {"pyarrow": "odd", "numpy": "1.26.4"}, None, False),
        ("webdatamodule-lightning", {"bionemo-webdatamodule": "1.0.0"}, None, True),
        ("webdatamodule-lightning", {"bionemo-webdatamodule": "1.0.0", "lightning": "2.6"}, None, False),
        ("torchao-abi", {"torchao": "0.12.0", "torch": "2.9.1+cu130"}, "13.0", True),
        ("torchao-abi", {"torchao": "0.13.0", "torch": "2.9.1+cu130"}, "13.0", False),
        ("warp-1.13", {"warp-lang": "1.13.0", "subquadratic-ops-torch-cu13": "0.3"}, "13.0", True),
        ("warp-1.13", {"warp-lang": "1.12.1", "subquadratic-ops-torch-cu13": "0.3"}, "13.0", False),
        ("evo2-cuda-13", {"bionemo-evo2": "2.0", "subquadratic-ops-torch-cu13": "0.3"}, "12.8", True),
        ("evo2-cuda-13", {"bionemo-evo2": "2.0", "subquadratic-ops-torch-cu13": "0.3"}, "13.0", False),
        ("evo2-cuda-13", {"bionemo-evo2": "2.0", "subquadratic-ops-torch-cu13": "0.3"}, None, False),
    ],
)
def test_a_change_matters_where_what_it_breaks_is_installed(
    id: str, installed: dict[str, str], cuda: str | None, matters: bool
) -> None:
    (change,) = [change for change in stack.changes() if change.id == id]
    assert change.matters(installed.get, cuda) is matters


@pytest.mark.parametrize(
    ("specifier", "version", "admits"),
    [
        (">=2.9", "2.9.0+abc", True),
        (">=2.9", "2.10.0.dev1", True),
        ("<2.8.4", "2.8.3.post2", True),
        ("!=0.14.0", "0.14.0+cu130", False),
        (">=2.9", None, False),
        (">=2.9", "unknown", False),
        ("", "1.0", True),
        ("", "unknown", True),
        (">=2.9", "2.9.0a0+145a3a7bda.nv25.10", True),
        ("==2.9.0a0+145a3a7bda.nv25.10", "2.9.0a0+145a3a7bda.nv25.10", True),
        (">=2.10", "2.9.0a0+145a3a7bda.nv25.10", False),
        (">=2.9", "2.9.0a0+git145a3a7", False),
    ],
)
def test_a_version_is_admitted_or_not(specifier: str, version: str | None, admits: bool) -> None:
    assert versions.admits(specifier, version) is admits


def test_tables_are_read_once() -> None:
    assert stack.changes() is stack.changes()
    assert facts.load("stack") is facts.load("stack")
