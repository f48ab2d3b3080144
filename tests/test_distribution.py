"""What is shipped, and what the README says of it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import Rig
from pytest_bionemo import options
from standin import H100x8

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    """The fenced blocks of this language; "" for those without one."""
    parts = re.split(r"^```(.*)\n", README, flags=re.MULTILINE)
    return [text for fence, text in zip(parts[1::4], parts[2::4], strict=True) if fence == language]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="one environment is enough to build the wheel in")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.startswith("pytest_bionemo/")}
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pytest_bionemo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == source
    assert {"pytest_bionemo/py.typed", "pytest_bionemo/report/schema.json"} <= shipped


def test_the_wheel_declares_the_plugin_and_nothing_of_torch(wheel: zipfile.ZipFile) -> None:
    info = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = wheel.read(info).decode()
    entry_points = wheel.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert "[pytest11]\nbionemo = pytest_bionemo.plugin" in entry_points
    assert "Classifier: Framework :: Pytest" in metadata
    assert not re.search(r"^Requires-Dist: torch(?!.*extra ==)", metadata, re.MULTILINE)


def test_the_wheel_runs_where_it_is_installed(wheel: zipfile.ZipFile, rig: Rig) -> None:
    wheel.extractall(rig.site)
    imported = rig.run("-c", "import pytest_bionemo; print(pytest_bionemo.__file__)").stdout.strip()
    assert Path(imported).is_relative_to(rig.site)
    assert rig.validate().blockers == ["driver::loads"]


def test_the_screen_in_the_readme_is_what_a_machine_without_a_gpu_shows(rig: Rig) -> None:
    screen = next(block for block in code_blocks("") if "BioNeMo readiness" in block)
    shown = rig.validate("--bionemo-level=standard").stdout.splitlines()
    # Not compared: how long it took, and what depends on whether this is a container.
    stable = [
        line for line in screen.splitlines() if line.startswith(("bionemo", "BLOCKED", "waiting", "report", "==="))
    ]
    assert len(stable) >= 10
    assert [line for line in map(_of_any_machine, stable) if line not in map(_of_any_machine, shown)] == []


def _of_any_machine(line: str) -> str:
    """Without what depends on the machine: how long it took, and what applies to its host and platform."""
    if line.startswith(("bionemo/host", "bionemo/platform")):
        return re.sub(r"(?<= )[.s]+(?= )", "", line)
    return re.sub(r"\d+ passed, \d+ skipped in [\d.]+s", "", line)


def test_the_readme_names_every_option_and_no_other(rig: Rig) -> None:
    names = ("target", "save", *options._SWITCHES, *options._VALUED)
    known = {f"--bionemo-{name}" for name in names}
    assert set(re.findall(r"--bionemo-[a-z-]+", README)) == known


def test_the_examples_of_the_readme_work(healthy_rig: Rig) -> None:
    notebook, tests, hook, checks = code_blocks("python")
    healthy_rig.write("test_ours.py", f"{tests}\ndef train_our_model(steps): return steps\n")
    healthy_rig.write(
        "conftest.py", "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\n" + hook
    )
    healthy_rig.write("our_cluster/storage.py", checks)
    run = healthy_rig.validate("test_ours.py")
    assert run.blockers == ["storage::scratch_is_mounted"]
    ours = [test for test in run.report["tests"] if test["nodeid"].startswith("test_ours")]
    assert [test["outcome"] for test in ours] == ["passed", "passed"]
    measured = next(one for one in run.bionemo["measurements"] if one["name"] == "step_time")
    assert (measured["value"], measured["device"]) == (1.0, H100x8.gpus[0].uuid)
    healthy_rig.write("readiness.py", notebook.replace("report.to_pandas()", ""))
    assert "READY_FOR_INSTALL" in healthy_rig.run("readiness.py").stdout
