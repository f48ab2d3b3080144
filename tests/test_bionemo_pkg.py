"""The fixture bionemo_pkg in somebody else's suite: a package that can be used, or why not in one line."""

from __future__ import annotations

import re

import pytest

from conftest import Rig, python_version
from pytest_bionemo.facts import family
from standin.distributions import write_distribution
from standin.family import write_package

SUITE = """
import sys
import pytest

def test_whole(bionemo_pkg):
    for specifier in (None, ">=0.1", ">=0.1,<2", "==1.0"):
        core = bionemo_pkg("bionemo-core", specifier)
        assert (core.is_installed, core.version, core.import_error) == (True, "1.0", None)
    assert repr(core) == "<BionemoPackage: bionemo-core 1.0>"
    assert [(one.name, one.specifier) for one in core.unmet] == [("nothing-here", ">=2")]
    assert "bionemo.core" not in sys.modules
    assert core.module is sys.modules["bionemo.core"]

def test_prerelease(bionemo_pkg):
    assert bionemo_pkg("bionemo-geometric", ">=0.1").version == "0.2rc1"

@pytest.mark.xfail(reason="of the user")
def test_absent(bionemo_pkg):
    bionemo_pkg("bionemo-moco")

def test_on_no_index(bionemo_pkg):
    bionemo_pkg("bionemo-evo2")

def test_old(bionemo_pkg):
    bionemo_pkg("bionemo-scdl", ">=0.1")

def test_of_no_version(bionemo_pkg):
    bionemo_pkg("bionemo-noodles", ">=0.1")

def test_broken(bionemo_pkg):
    bionemo_pkg("bionemo-scdl", "<0.1")

def test_crashing(bionemo_pkg):
    bionemo_pkg("bionemo-webdatamodule")

def test_wrong_use(bionemo_pkg):
    with pytest.raises(LookupError, match="bionemo-mocco is no BioNeMo package. Did you mean bionemo-moco?"):
        bionemo_pkg("bionemo-mocco")
    for bad in ("0.1", "newest", 1, ["0.1"]):
        with pytest.raises(ValueError) as caught:
            bionemo_pkg("bionemo-moco", bad)
        assert str(caught.value) == f"bionemo-moco: {bad!r} is no version specifier, such as '>=0.1' or '>=0.1,<2'."

def test_misspelt(bionemo_pkg):
    bionemo_pkg("bionemo-mocco")
"""

FIRST = family.find("bionemo-scdl").modules[0]
FILE = f"{FIRST.replace('.', '/')}.py"
REASONS = {
    "absent": "bionemo-moco is not installed: pip install bionemo-moco",
    "on_no_index": f"bionemo-evo2 is not installed: {family.find('bionemo-evo2').fate}",
    "old": "bionemo-scdl 0.0.9 is installed, this test needs >=0.1",
    "of_no_version": "bionemo-noodles broken is installed, this test needs >=0.1",
    "broken": f"bionemo-scdl 0.0.9 does not import: {FIRST}: OSError: broken (in {FILE}, line 1)",
    "crashing": "bionemo-webdatamodule 1.0 does not import: killed by SIGABRT",
}

# Notes the start of every child, and what it imports.
NOTE_CHILDREN = """
import sys

class Noting:
    def find_spec(self, name, path=None, target=None):
        note("import " + name)

def note(line):
    with open({file!r}, "a") as noted:
        noted.write(line + "\\n")

if "pytest_bionemo.probes.child" in " ".join(sys.orig_argv):
    note("start " + " ".join(sys.orig_argv))
    sys.meta_path.insert(0, Noting())
"""


def write_packages(rig: Rig) -> None:
    site = rig.site
    write_package(site, "bionemo-core", requires=["nothing-here>=2"])
    write_package(site, "bionemo-geometric", version="0.2rc1")
    write_package(site, "bionemo-scdl", "raise OSError('broken')", version="0.0.9")
    write_package(site, "bionemo-webdatamodule", "import os; os.abort()")
    write_package(site, "bionemo-noodles", version="broken")


@pytest.mark.parametrize("arguments", [(), ("--bionemo-strict", "-n", "2")], ids=str)
def test_a_package_is_there_or_the_test_says_why_not(rig: Rig, arguments: tuple[str, ...]) -> None:
    write_packages(rig)
    rig.write("test_theirs.py", SUITE)
    rig.variables["COLUMNS"] = "400"
    run = rig.pytest("-rsf", "-p", "no:cacheprovider", *arguments)
    outcomes = "7 failed, 3 passed" if arguments else "1 failed, 3 passed, 6 skipped"
    assert outcomes in run.stdout, run.stdout
    for name, reason in REASONS.items():
        line = (
            f"FAILED test_theirs.py::test_{name} - NotMet: " if arguments else r"SKIPPED \[1\] test_theirs.py:\d+: "
        )
        pattern = line + re.escape(reason)
        assert re.search(pattern, run.stdout), f"{pattern} in {run.stdout}"
    assert "FAILED test_theirs.py::test_misspelt - LookupError: bionemo-mocco is no BioNeMo package" in run.stdout
    left = [path.name for path in (rig.environment.folder / "tmp").iterdir()]
    assert not [name for name in left if not name.startswith("pytest-of-")], "that one is pytest's own"


def test_only_what_is_asked_for_is_imported_and_nothing_is_tried(rig: Rig) -> None:
    """A validation imports all of them ahead, and has each do its work."""
    write_packages(rig)
    write_distribution(rig.site, "torch", "2.0", {"torch.py": "raise SystemExit('its trial needs torch')"})
    rig.write("test_theirs.py", "def test_theirs(bionemo_pkg): bionemo_pkg('bionemo-core')")
    (rig.site / "sitecustomize.py").write_text(NOTE_CHILDREN.format(file=str(rig.folder / "noted")))
    run = rig.pytest("-p", "no:cacheprovider")
    assert run.returncode == 0, run.stdout
    noted = (rig.folder / "noted").read_text().splitlines()
    (start,) = [line for line in noted if line.startswith("start ")]
    assert f"python{python_version()}" in start
    assert "import bionemo.core" in noted
    assert not [line for line in noted if "workloads" in line]
