"""The topic packages: real distributions that pip installs, damaged ones, and ones that misbehave at import."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import REPORT, Rig, Run
from faults import proves
from pytest_bionemo import install_options
from pytest_bionemo.facts import family
from pytest_bionemo.probes.machine import Machine
from standin import H100x8, Libraries
from standin.distributions import remove_file, write_distribution
from standin.environment import Environment
from standin.family import install, make_environment, spoil_imports, write_package
from standin.torch_package import StandinTorch

HOST = Machine(timeout=1).host
INSTALLED = [known.name for known in family.installable(HOST.python, HOST.machine)]
CHECKS = ("is_whole", "fits_platform", "requirements_met", "imports_deeply", "works")


def option_b() -> str:
    """The command of option B, as a run prints it on this machine where PyTorch is installed."""
    (command,) = [
        line.removeprefix("$ ")
        for line in install_options.lines(Machine(timeout=60))
        if line.startswith("$ pip install bionemo-")
    ]
    return command


@pytest.fixture(scope="session")
def bionemo_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment in which the command of option B was run. It takes about a minute, once a session."""
    base = tmp_path_factory.getbasetemp()
    return make_environment(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base, option_b())


@pytest.fixture
def bionemo_rig(bionemo_environment: Environment, libraries: Libraries, tmp_path: Path) -> Rig:
    """A machine without a driver, with the real packages and the real torch."""
    return Rig(bionemo_environment, libraries, tmp_path)


def outcomes(run: Run, name: str) -> dict[str, str]:
    return {check: run.outcome(f"packages::{check}[{name}]") for check in CHECKS}


def rehearse(rig: Rig, *options: str) -> Run:
    return rig.rehearse("bionemo/packages", *options)


# -------------------------------------------------------------------------------------------------- real packages


def left_in_tmp(rig: Rig) -> list[str]:
    left = [path.name for path in (rig.environment.folder / "tmp").iterdir()]
    return [name for name in left if not name.startswith("pytest-of-")]  # pytest's own, of a test that asked for it


def test_what_the_command_of_option_b_installs_passes_every_check(bionemo_rig: Rig) -> None:
    """And only what they do not need is missing: without a driver, the driver blocks."""
    home = bionemo_rig.environment.folder / "home"
    before = sorted(home.rglob("*"))
    run = bionemo_rig.pytest("bionemo/packages", "bionemo/driver::loads", "-p", "no:cacheprovider", timeout=300)
    assert run.blockers == ["driver::loads"]
    assert run.warnings == []
    for name in INSTALLED:
        assert outcomes(run, name) == dict.fromkeys(CHECKS, "passed"), name
    for known in family.packages():
        if known.named and known.name not in INSTALLED:
            assert outcomes(run, known.name) == dict.fromkeys(CHECKS, "not_applicable")
    for check in ("namespace_is_clean", "cache_is_writable"):
        assert run.outcome(f"packages::{check}") == "passed"
    assert run.bionemo["sections"]["packages"] == "PASSED"
    assert {entry["name"] for entry in run.bionemo["packages"] if entry["version"]} == set(INSTALLED)
    assert run.bionemo["install_options"] == []
    # It looks, and leaves nothing: importing bionemo.core makes a folder in the home of whoever does it.
    assert sorted(home.rglob("*")) == before
    assert [path.name for path in bionemo_rig.project.iterdir()] == [REPORT]
    assert left_in_tmp(bionemo_rig) == []


def test_with_packages_that_are_whole_a_healthy_machine_is_ready(bionemo_rig: Rig) -> None:
    bionemo_rig.node, bionemo_rig.torch = H100x8, StandinTorch()
    run = bionemo_rig.validate()
    assert run.verdict == "READY"
    assert run.returncode == 0


# The lowest place that a test can reach in each: a function of PyTorch, of numpy, of the compiled part.
SPOILT = {
    "bionemo.core.utils.batching_utils": (
        "pad = module.torch.nn.utils.rnn.pad_sequence\n"
        "module.torch.nn.utils.rnn.pad_sequence = lambda ids, **given: pad(ids, **{**given, 'padding_value': 9})\n"
    ),
    "bionemo.scdl.io.single_cell_memmap_dataset": (
        "get_row = module.SingleCellMemMapDataset.get_row\n"
        "def faulty(self, index, *arguments):\n"
        "    (values, columns), *features = get_row(self, index, *arguments)\n"
        "    return (values + (index == 3), columns), *features\n"
        "module.SingleCellMemMapDataset.get_row = faulty\n"
    ),
    "bionemo.noodles": "module.complement_sequence = module.reverse_sequence\n",
    "bionemo.moco.interpolants": (
        "step = module.ContinuousFlowMatcher.step\n"
        "module.ContinuousFlowMatcher.step = lambda self, out, state, dt: step(self, out, state, dt / 2)\n"
    ),
}
WRONG = {
    "bionemo-core": r"wrong result: padded is \[\[1, 2, 3\], \[4, 9, 9\]\], expected \[\[1, 2, 3\], \[4, 0, 0\]\]",
    "bionemo-scdl": r"wrong result: [1-9]\d* of 200 elements of a matrix differ after they were written and read",
    "bionemo-noodles": r"wrong result: complement is 'GCAA', expected 'TTGC'",
    "bionemo-moco": r"wrong result: a flow that starts [\d.]+ from its target ends [\d.]+ from it, expected at most",
}


@proves("packages::works", "a package gives wrong results", "package")
def test_a_package_that_gives_wrong_results_is_found(bionemo_rig: Rig) -> None:
    spoil_imports(bionemo_rig.site, SPOILT)
    run = rehearse(bionemo_rig)
    assert run.blockers == [f"packages::works[{name}]" for name in INSTALLED]
    for name in INSTALLED:
        assert re.search(WRONG[name], run.finding(f"packages::works[{name}]")["message"])


def test_a_package_that_fails_at_its_small_example_is_found(bionemo_rig: Rig) -> None:
    fault = "module.pad_token_ids = lambda *arguments, **given: 1 // 0\n"
    spoil_imports(bionemo_rig.site, {"bionemo.core.utils.batching_utils": fault})
    run = bionemo_rig.rehearse("bionemo/packages::works[bionemo-core]")
    message = run.finding("packages::works[bionemo-core]")["message"]
    assert "does not come through a small example: ZeroDivisionError" in message


@pytest.mark.skipif("bionemo-moco" not in INSTALLED, reason="needs bionemo-moco, which this machine cannot have")
@proves("packages::requirements_met", "two packages that exclude each other", "distribution")
def test_two_packages_that_exclude_each_other_are_both_named(bionemo_rig: Rig) -> None:
    """numpy as pip leaves it when it is told to install both: one of the two goes without."""
    install(bionemo_rig.environment, ["pip", "install", "--no-deps", "--target", str(bionemo_rig.site), "numpy>=2"])
    write_distribution(bionemo_rig.site, "modern-tool", "3.1", requires=["numpy>=2"])
    run = bionemo_rig.validate("bionemo/packages", "--bionemo-device=cpu")
    finding = run.finding("packages::requirements_met[bionemo-moco]")
    assert re.fullmatch(
        r"bionemo-moco \S+ requires numpy<2,>=1\.24\.4: 2\.\S+ is installed, and modern-tool 3\.1 requires numpy>=2",
        finding["message"],
    )
    assert finding["fix"] == ["give bionemo-moco and modern-tool an environment each: no version fits both"]
    assert run.blockers == ["packages::requirements_met[bionemo-moco]"]


@pytest.mark.skipif(not {"bionemo-moco", "bionemo-scdl"} <= set(INSTALLED), reason="needs both, which numpy 1 allows")
@proves("packages::imports_deeply", "pyarrow is too new for numpy", "distribution")
def test_what_a_dependency_broke_is_told_with_its_cause_and_its_fix(bionemo_rig: Rig) -> None:
    """What pip installs when it is not told "pyarrow<26"."""
    site = str(bionemo_rig.site)
    install(bionemo_rig.environment, ["pip", "install", "--no-deps", "--target", site, "pyarrow>=26"])
    run = rehearse(bionemo_rig)
    assert run.blockers == ["packages::imports_deeply[bionemo-scdl]"]
    finding = run.finding("packages::imports_deeply[bionemo-scdl]")
    assert "ImportError: pyarrow requires NumPy 2.0 or newer, found 1.26" in finding["message"]
    assert "pyarrow 26 does not import with numpy below 2" in finding["why"]
    assert finding["fix"] == ['$ pip install "pyarrow<26"']
    assert run.gap("packages::works[bionemo-scdl]")["waits_for"] == "bionemo/packages::imports_deeply[bionemo-scdl]"


@proves("packages::imports_deeply", "nemo-toolkit is too new for bionemo-llm", "distribution")
def test_bionemo_llm_with_todays_nemo_is_found_with_the_cause_and_the_fix(bionemo_rig: Rig) -> None:
    """A plain import passes. Of what pip picks today, this is the least that shows it."""
    names = ["bionemo-llm", "nemo-toolkit", "megatron-core", "lightning", "pytorch-lightning"]
    names += ["lightning-utilities", "torchmetrics"]
    install(bionemo_rig.environment, ["pip", "install", "--no-deps", "--target", str(bionemo_rig.site), *names])
    done = bionemo_rig.run("-c", "import bionemo.llm")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(bionemo_rig.environment.folder / "home/.cache", ignore_errors=True)
    check = "packages::imports_deeply[bionemo-llm]"
    run = bionemo_rig.rehearse(f"bionemo/{check}")
    finding = run.finding(check)
    assert re.search(r"\d of 4 modules of bionemo-llm 2\.\S+ do not import: bionemo\.llm\.api: ", finding["message"])
    assert "No module named 'nemo.lightning.megatron_parallel' (in bionemo/llm/api.py, line " in finding["message"]
    assert "nemo-toolkit 2.7 took out nemo.collections.nlp" in finding["why"]
    assert any("bionemo-framework:2.7.1" in line for line in finding["fix"])
    assert run.blockers == [check]


def test_an_empty_environment_gets_the_install_options(healthy_rig: Rig) -> None:
    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL"
    assert run.bionemo["sections"]["packages"] == "NO_PACKAGES"
    options = run.bionemo["install_options"]
    assert [line[:2] for line in options if re.match("[ABC]:", line)] == ["A:", "B:", "C:"]
    assert "$ " + option_b() in options
    assert "install  A: " in run.stdout


# -------------------------------------------------------------------------------------- damaged installations


def scdl(rig: Rig) -> Path:
    return write_package(rig.site, "bionemo-scdl")


def without_metadata(rig: Rig) -> None:
    (scdl(rig) / "METADATA").unlink()


def binary_metadata(rig: Rig) -> None:
    (scdl(rig) / "METADATA").write_bytes(b"Name: bionemo-scdl\nVersion: 1\nSummary: \xff\n")


def odd_version(rig: Rig) -> None:
    write_package(rig.site, "bionemo-scdl", version="latest")


def without_record(rig: Rig) -> None:
    (scdl(rig) / "RECORD").unlink()


def binary_record(rig: Rig) -> None:
    (scdl(rig) / "RECORD").write_bytes(b"\xff\xfe\x00")


def cut_off_record(rig: Rig) -> None:
    (scdl(rig) / "RECORD").write_text("")


def without_a_file(rig: Rig) -> None:
    scdl(rig)
    remove_file(rig.site, "bionemo-scdl", "bionemo/scdl/util/torch_dataloader_utils.py")


def twice(rig: Rig) -> None:
    scdl(rig)
    write_distribution(rig.site, "bionemo-scdl", "0.9")


def editable_without_its_folder(rig: Rig) -> None:
    origin = {"url": f"file://{rig.folder}/my%20checkout", "dir_info": {"editable": True}}
    (scdl(rig) / "direct_url.json").write_text(json.dumps(origin))


def editable(rig: Rig) -> None:
    editable_without_its_folder(rig)
    (rig.folder / "my checkout").mkdir()


def editable_of_nonsense(rig: Rig) -> None:
    (scdl(rig) / "direct_url.json").write_text('{"url": 3, "dir_info": []}')


DAMAGES: dict[str, tuple[Callable[[Rig], object], str]] = {
    "metadata missing": (without_metadata, "the metadata of bionemo-scdl cannot be read"),
    "metadata no text": (binary_metadata, "the metadata of bionemo-scdl cannot be read"),
    "version": (odd_version, r"'latest', which is no version \(PEP 440\)"),
    "RECORD missing": (without_record, "1.0: its RECORD, the list of its files, is gone"),
    "RECORD empty": (cut_off_record, "1.0: its RECORD, the list of its files, is gone"),
    "RECORD no text": (binary_record, "1.0: its RECORD cannot be read .*decode"),
    "file missing": (without_a_file, "lacks 1 of its files, such as bionemo/scdl/util/torch_dataloader_utils.py"),
    "twice": (twice, "is installed more than once: "),
    "editable, gone": (editable_without_its_folder, "installed as editable from .*/my checkout, which is gone"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@proves("packages::is_whole", "a damaged installation", "distribution")
def test_a_damaged_installation_is_one_finding_and_stops_nothing(rig: Rig, damage: str) -> None:
    inject, message = DAMAGES[damage]
    inject(rig)
    write_package(rig.site, "bionemo-webdatamodule")
    run = rehearse(rig)
    assert run.blockers == ["packages::is_whole[bionemo-scdl]"]
    finding = run.finding("packages::is_whole[bionemo-scdl]")
    assert re.search(message, finding["message"])
    assert finding["fix"]
    assert finding["why"]
    waiting = {entry["waits_for"] for entry in run.bionemo["not_run"] if "bionemo-scdl" in str(entry["check"])}
    assert waiting == {"bionemo/packages::is_whole[bionemo-scdl]"}
    assert run.outcome("packages::imports_deeply[bionemo-webdatamodule]") == "passed"


@pytest.mark.parametrize("healthy", [scdl, editable, editable_of_nonsense])
def test_a_whole_installation_is_no_finding(rig: Rig, healthy: Callable[[Rig], object]) -> None:
    healthy(rig)
    run = rig.validate("bionemo/packages", "--bionemo-device=cpu")
    assert run.outcome("packages::is_whole[bionemo-scdl]") == "passed"
    assert run.blockers == []


# ------------------------------------------------------------------------------------ this Python, this machine


def built_for(rig: Rig, name: str, tag: str) -> None:
    (write_package(rig.site, name) / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")


@proves("packages::fits_platform", "built for another processor", "distribution")
def test_a_package_that_is_built_for_another_processor_is_found(rig: Rig) -> None:
    built_for(rig, "bionemo-noodles", "cp311-cp311-manylinux_2_28_sparc64")
    run = rehearse(rig)
    assert run.blockers == ["packages::fits_platform[bionemo-noodles]"]
    finding = run.finding("packages::fits_platform[bionemo-noodles]")
    assert finding["message"] == (
        f"bionemo-noodles 1.0 is built for cp311-cp311-manylinux_2_28_sparc64; this is Python {HOST.python} on "
        f"{HOST.machine}"
    )
    gap = run.gap("packages::imports_deeply[bionemo-noodles]")
    assert gap["waits_for"] == "bionemo/packages::fits_platform[bionemo-noodles]"


def test_a_package_that_is_made_for_another_python_is_found(rig: Rig) -> None:
    write_distribution(rig.site, "bionemo-scdl", "1.0", requires_python="<3.10")
    run = rig.validate("bionemo/packages", "--bionemo-device=cpu")
    finding = run.finding("packages::fits_platform[bionemo-scdl]")
    assert finding["message"] == f"bionemo-scdl 1.0 needs Python <3.10, this is {HOST.python}"


@pytest.mark.parametrize("tag", ["py3-none-any", "py2.py3-none-any", "nonsense"])
def test_a_package_for_any_machine_fits(rig: Rig, tag: str) -> None:
    built_for(rig, "bionemo-noodles", tag)
    run = rig.validate("bionemo/packages", "--bionemo-device=cpu")
    assert run.outcome("packages::fits_platform[bionemo-noodles]") == "passed"


# ------------------------------------------------------------------------------------------------ requirements


def requirements_of_core(rig: Rig, *requires: str) -> Run:
    write_distribution(rig.site, "bionemo-core", "2.4.5", requires=requires)
    return rig.validate("bionemo/packages", "--bionemo-device=cpu")


CORE = "packages::requirements_met[bionemo-core]"


@proves("packages::requirements_met", "something is missing far below", "distribution")
def test_something_that_is_missing_far_below_is_found(rig: Rig) -> None:
    write_distribution(rig.site, "one", "1.0", requires=["two[fast]"])
    write_distribution(rig.site, "two", "1.0", requires=['three>=3; extra == "fast"', 'four; extra == "slow"'])
    run = requirements_of_core(rig, "one")
    assert run.finding(CORE)["message"] == "two[fast] 1.0 requires three>=3: it is not installed"
    assert run.finding(CORE)["fix"] == ['$ pip install "three>=3"']


def test_all_that_is_needed_is_no_finding(rig: Rig) -> None:
    write_distribution(rig.site, "three", "3.1+local")
    run = requirements_of_core(rig, "three>=3", 'four; sys_platform == "win32"', 'five; extra == "test"')
    assert run.outcome(CORE) == "passed"


@proves("packages::requirements_met", "a pin of a third party is not met", "distribution", severity="warning")
def test_a_pin_of_somebody_else_only_warns(rig: Rig) -> None:
    write_distribution(rig.site, "one", "1.0", requires=["two==1.0"])
    write_distribution(rig.site, "two", "2.0")
    run = requirements_of_core(rig, "one")
    assert run.blockers == []
    assert run.finding(CORE)["message"] == "one 1.0 requires two==1.0: 2.0 is installed"
    assert run.finding(CORE)["fix"] == ['$ pip install "two==1.0"']


def test_a_release_in_a_container_of_nvidia_counts_as_that_release(rig: Rig) -> None:
    write_distribution(rig.site, "torch", "2.9.0a0+145a3a7bda.nv25.10")
    assert requirements_of_core(rig, "torch>=2.9").outcome(CORE) == "passed"


def test_another_pytorch_is_one_that_fits_this_machine(healthy_rig: Rig) -> None:
    healthy_rig.torch = StandinTorch(version="2.9.0")
    write_distribution(healthy_rig.site, "bionemo-core", "2.4.5", requires=["torch>=2.10"])
    finding = healthy_rig.validate().finding(CORE)
    assert finding["message"] == "bionemo-core 2.4.5 requires torch>=2.10: 2.9.0 is installed"
    assert [line for line in finding["fix"] if re.match(r'\$ pip install "torch==2\.\d+\.\*"', line)]


def test_with_hundreds_of_distributions_the_metadata_are_read_once(rig: Rig) -> None:
    for number in range(300):
        write_distribution(rig.site, f"part{number}", "1.0", requires=[f"part{number + 1}", 'x; extra == "y"'])
    write_distribution(rig.site, "bionemo-core", "2.4.5", requires=["part0"])
    look = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
        "from pytest_bionemo.probes import requirements\n"
        "for _ in range(3): found = requirements.closure('bionemo-core'); requirements.on({'part7'})\n"
        "print(len(found), max(opened.count(name) for name in opened if name.endswith('METADATA')))"
    )
    assert rig.run("-c", look).stdout.split() == ["301", "3"]


def test_a_version_that_is_none_meets_nothing(rig: Rig) -> None:
    write_distribution(rig.site, "three", "latest")
    run = requirements_of_core(rig, "three>=3")
    assert run.finding(CORE)["message"] == "bionemo-core 2.4.5 requires three>=3: latest is installed"


def test_what_another_bionemo_package_lacks_is_its_finding_alone(rig: Rig) -> None:
    write_distribution(rig.site, "bionemo-noodles", "0.1.2", requires=["bionemo-core"])
    run = requirements_of_core(rig, "three")
    assert run.blockers == [CORE]
    assert run.gap("packages::requirements_met[bionemo-noodles]")["waits_for"] == f"bionemo/{CORE}"


def test_a_missing_pytorch_is_the_finding_of_another_check(rig: Rig) -> None:
    write_package(rig.site, "bionemo-core", "import torch", requires=["torch"])
    run = rehearse(rig, "bionemo/torch::installed")
    assert run.blockers == ["torch::installed"]
    assert run.gap("packages::imports_deeply[bionemo-core]")["waits_for"] == "bionemo/torch::installed"


# ------------------------------------------------------------------------------------- namespace and cache folder


def test_a_module_that_this_release_never_had_is_no_fault(rig: Rig) -> None:
    write_distribution(rig.site, "bionemo-scdl", "0.0.9", {"bionemo/scdl/io/single_cell_memmap_dataset.py": ""})
    run = rehearse(rig, "bionemo/packages::imports_deeply[bionemo-scdl]")
    assert run.outcome("packages::imports_deeply[bionemo-scdl]") == "passed", run.stdout


def test_a_release_that_has_nothing_of_it_is_tried_all_the_same(rig: Rig) -> None:
    write_distribution(rig.site, "bionemo-scdl", "0.0.9", {"elsewhere.py": ""})
    finding = rehearse(rig, "bionemo/packages::imports_deeply[bionemo-scdl]").finding(
        "packages::imports_deeply[bionemo-scdl]"
    )
    assert "No module named 'bionemo'" in finding["message"]


@proves("packages::namespace_is_clean", "a stray file hides the namespace", "distribution")
def test_a_stray_file_that_hides_the_namespace_is_one_finding(rig: Rig) -> None:
    write_package(rig.site, "bionemo-core")
    write_package(rig.site, "bionemo-scdl")
    stray = rig.folder / "stray"
    stray.joinpath("bionemo").mkdir(parents=True)
    stray.joinpath("bionemo/__init__.py").write_text("")
    rig.variables["PYTHONPATH"] = f"{rig.site}:{stray}"  # its place on the path does not matter
    run = rehearse(rig)
    assert run.blockers == ["packages::namespace_is_clean"]
    assert run.finding("packages::namespace_is_clean")["message"].startswith(f"{stray}/bionemo/__init__.py makes")
    waiting = {entry["check"]: entry["waits_for"] for entry in run.bionemo["not_run"]}
    assert waiting["bionemo/packages::imports_deeply[bionemo-core]"] == "bionemo/packages::namespace_is_clean"


CANNOT_BE_MADE = "the folder of the cache cannot be made"


@pytest.mark.parametrize(
    "variable",
    [
        pytest.param(
            "BIONEMO_CACHE_DIR",
            marks=proves("packages::cache_is_writable", CANNOT_BE_MADE, "environment", severity="warning"),
        ),
        pytest.param(
            "XDG_CACHE_HOME",
            marks=proves("packages::cache_is_writable", f"the default for {CANNOT_BE_MADE[4:]}", "environment"),
        ),
    ],
)
def test_a_cache_folder_that_cannot_be_made_is_found_and_not_made(rig: Rig, variable: str) -> None:
    write_package(rig.site, "bionemo-core")
    blocking = rig.write("a-file", "")
    rig.variables[variable] = f"{blocking}/below"
    run = rig.validate("bionemo/packages", "--bionemo-device=cpu")
    finding = run.finding("packages::cache_is_writable")
    assert f"cannot be made: {blocking} is no folder" in finding["message"]
    # Told to use it, the package imports, and fails when it downloads.
    told = variable == "BIONEMO_CACHE_DIR"
    assert (run.warnings if told else run.blockers) == ["packages::cache_is_writable"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_folder_that_this_user_may_not_write_is_found(rig: Rig) -> None:
    write_package(rig.site, "bionemo-core")
    closed = rig.folder / "closed"
    closed.mkdir(mode=0o500)
    rig.variables["XDG_CACHE_HOME"] = str(closed)
    run = rig.validate("bionemo/packages", "--bionemo-device=cpu")
    assert f"{closed} is not writable" in run.finding("packages::cache_is_writable")["message"]


def test_a_cache_folder_that_could_be_made_is_not_made(rig: Rig) -> None:
    write_package(rig.site, "bionemo-core")
    rig.variables["BIONEMO_CACHE_DIR"] = str(rig.folder / "not/there/yet")
    run = rehearse(rig)
    assert run.outcome("packages::cache_is_writable") == "passed"
    assert not (rig.folder / "not").exists()


# --------------------------------------------------------------------------------------------- at import

# What a package does at import, and what is said of it.
ACTS = {
    "bionemo-core": ("import signal; signal.pause()", "no answer within 8 s, while importing bionemo.core.api"),
    "bionemo-scdl": ("import sys; sys.exit('no')", r"1 of 5 modules of .* does not import: .*it calls exit\('no'\)"),
    "bionemo-moco": ("raise KeyboardInterrupt", r"1 of 5 modules of .*: KeyboardInterrupt \(in bionemo/moco/"),
    "bionemo-noodles": ("import os; os.abort()", "importing bionemo-noodles 1.0: killed by SIGABRT"),
    "bionemo-evo2": ("import os; os._exit(0)", "it ends the process with exit status 0"),
    "bionemo-llm": (
        "try:\n    import nothing_here\nexcept ImportError as error:\n    raise RuntimeError('odd') from error\n",
        r"ModuleNotFoundError: No module named 'nothing_here' \(in bionemo/llm/api.py, line 2\), told as",
    ),
}
ODDITIES = {
    "bionemo-geneformer": ("import os\nif not os.fork():\n    import time; time.sleep(600)", r"\(1 fork\)"),
    "bionemo-eden": ("print('Welcome to Eden!')", "writes to stdout: 'Welcome to Eden!'"),
}


def test_whatever_imports_do_each_is_a_finding_and_none_stops_the_run(rig: Rig) -> None:
    for name, (code, _) in {**ACTS, **ODDITIES}.items():
        write_package(rig.site, name, code)
    write_package(rig.site, "bionemo-webdatamodule")
    run = rehearse(rig, "--bionemo-timeout=8")
    findings = [f"packages::imports_deeply[{name}]" for name in ACTS]
    assert sorted(run.blockers) == sorted(findings)
    assert run.warnings == [f"packages::imports_deeply[{name}]" for name in ODDITIES]
    for name, (_, message) in {**ACTS, **ODDITIES}.items():
        assert re.search(message, run.finding(f"packages::imports_deeply[{name}]")["message"])
    assert run.outcome("packages::imports_deeply[bionemo-webdatamodule]") == "passed"
    gap = run.gap("packages::works[bionemo-core]")
    assert gap["waits_for"] == "bionemo/packages::imports_deeply[bionemo-core]"
    assert left_in_tmp(rig) == []


def test_a_module_of_a_requirement_that_is_missing_is_one_finding(rig: Rig) -> None:
    write_package(rig.site, "bionemo-scdl", "import not_here.at_all", requires=["Not.Here"])
    run = rehearse(rig)
    assert run.blockers == ["packages::requirements_met[bionemo-scdl]"]
    gap = run.gap("packages::imports_deeply[bionemo-scdl]")
    assert gap["waits_for"] == "bionemo/packages::requirements_met[bionemo-scdl]"


def test_an_import_that_spoils_pytorch_is_found(torch_rig: Rig) -> None:
    code = (
        "import torch\n"
        "library = torch.library.Library('aten', 'IMPL')\n"
        "library.impl('mm', lambda a, b: torch.zeros(a.shape[0], b.shape[1]), 'CPU')\n"
    )
    write_package(torch_rig.site, "bionemo-scdl", code)
    run = torch_rig.rehearse("bionemo/packages::imports_deeply[bionemo-scdl]")
    message = run.finding("packages::imports_deeply[bionemo-scdl]")["message"]
    assert message == "after importing bionemo-scdl 1.0, PyTorch does not compute: the sum of a product is 0, " \
        "expected 262144"  # fmt: skip
