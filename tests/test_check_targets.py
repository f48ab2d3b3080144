"""Which BioNeMo workloads can be trained here: on nodes of every kind, and for every reason why not."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from conftest import Rig, Run
from faults import proves
from pytest_bionemo import document
from pytest_bionemo.facts import targets
from standin import H100_MIG, A10Gx1, B200x8, H100x8, Node, RTX4090x1, T4x1
from standin.distributions import write_distribution
from standin.torch_package import StandinTorch

Json = dict[str, Any]

# What satisfies the specifiers of the recipes; anything else is installed in version 1.0.
VERSIONS = {
    "transformers": "5.4.0", "torchao": "0.18.0", "nvidia-modelopt": "0.47.0", "transformer_engine": "2.20.2",
}  # fmt: skip
ESM2 = "targets::is_runnable[esm2-650m]"


def install(rig: Rig, recipe: str = "esm2", without: str = "", **versions: str) -> None:
    """Install what the recipe of a family of targets requires, but for torch, which the rig has."""
    target = next(target for target in targets.targets() if target.recipe.name == recipe)
    installed = {"pytest"}  # with the plugin
    for name in (one.name for one in target.recipe.requires):
        if name not in {"torch", without, *installed}:
            write_distribution(rig.site, name, (VERSIONS | versions).get(name, "1.0"))


def on(rig: Rig, node: Node | None, **torch: Any) -> Rig:
    rig.node = node
    rig.torch = StandinTorch(**torch)
    return rig


def entry(run: Run, name: str = "esm2-650m") -> Json:
    return next(found for found in run.bionemo["targets"] if found["name"] == name)


def wanted(rig: Rig, name: str = "esm2-650m", *options: str) -> Run:
    """A run of what is about targets and of what they rest on."""
    return rig.validate("--bionemo-target", name, *options)


# ---- runnable


def test_who_has_a_recipe_from_a_checkout_is_ready(healthy_rig: Rig) -> None:
    install(healthy_rig)
    run = wanted(healthy_rig)
    assert (run.verdict, run.returncode) == ("READY", 0), run.bionemo["blockers"]
    assert run.bionemo["required_targets"] == ["esm2-650m"]
    assert run.outcome(ESM2) == "passed"
    assert not any(package["version"] for package in run.bionemo["packages"])
    found = entry(run)
    assert (found["required"], found["runnable"], found["installed"], found["fits"]) == (True, True, True, True)
    assert found["reasons"] == []
    assert found["formats"] == ["bf16", "fp8"]
    assert found["plan"] == "DDP over 8 GPUs"
    assert 14e9 < found["estimated_memory_bytes"] < 16e9 < found["available_memory_bytes"]
    assert 40 < found["largest_micro_batch"] < 60
    assert found["expected_tokens_per_s"] is None  # no kernel was run
    assert [figure["value"] for figure in found["published"]] == [95871]


def test_without_being_asked_a_runnable_target_makes_ready_too(healthy_rig: Rig) -> None:
    install(healthy_rig)
    run = healthy_rig.validate()
    assert run.verdict == "READY"
    assert run.bionemo["required_targets"] == []
    assert run.outcome(ESM2) == "passed"
    assert [found["name"] for found in run.bionemo["targets"]] == list(targets.names())
    assert "targets  6 of 19 can be trained here: esm2-8m, esm2-35m," in run.stdout


def test_without_being_asked_no_target_fails(healthy_rig: Rig) -> None:
    run = healthy_rig.validate()
    assert (run.verdict, run.returncode) == ("READY_FOR_INSTALL", 0)
    assert run.bionemo["sections"]["targets"] == "NOT_APPLICABLE"
    assert run.outcome(ESM2) == "not_applicable"
    assert not entry(run)["runnable"]
    assert entry(run)["fits"]
    assert re.search(r"^targets  \d+ need only packages: esm2-8m,", run.stdout, re.MULTILINE)


def test_several_targets_are_judged_each_by_itself(healthy_rig: Rig) -> None:
    install(healthy_rig)
    run = healthy_rig.validate("--bionemo-target=esm2-8m", "--bionemo-target", "evo2-7b")
    assert run.verdict == "BLOCKED"
    assert run.outcome("targets::is_runnable[esm2-8m]") == "passed"
    assert run.outcome(ESM2) == "passed"
    assert run.blockers == ["targets::is_runnable[evo2-7b]"]
    assert [found["name"] for found in run.bionemo["targets"] if found["required"]] == ["esm2-8m", "evo2-7b"]


def test_the_ini_twin_is_a_list(healthy_rig: Rig) -> None:
    install(healthy_rig)
    healthy_rig.write("pytest.ini", "[pytest]\nbionemo_target =\n    esm2-8m\n    esm2-35m\n")
    run = healthy_rig.validate()
    assert run.bionemo["required_targets"] == ["esm2-8m", "esm2-35m"]
    assert run.verdict == "READY"
    assert wanted(healthy_rig).bionemo["required_targets"] == ["esm2-650m"]


def test_under_xdist_it_is_the_same(healthy_rig: Rig) -> None:
    install(healthy_rig)
    alone, shared = wanted(healthy_rig), wanted(healthy_rig, "esm2-650m", "-n", "2")
    assert shared.verdict == alone.verdict == "READY"
    by_name = {found["name"]: found for found in shared.bionemo["targets"]}
    assert by_name == {found["name"]: found for found in alone.bionemo["targets"]}


# ---- why not


Change = Callable[[Rig], object]


def on_aarch64(rig: Rig, without: str = "bionemo-noodles") -> None:
    install(rig, "evo2", without)
    rig.variables.update(rig.libraries.on_host(machine="aarch64"))


def lacking_below(rig: Rig) -> None:
    install(rig, without="datasets")
    write_distribution(rig.site, "datasets", "4.1", requires=["pyarrow>=21", "dill<0.4"])
    write_distribution(rig.site, "dill", "0.4.1")  # a pin of somebody else is no proof


def lacking_of_an_extra(rig: Rig) -> None:
    install(rig, without="transformer_engine")
    requires = ['transformer-engine-torch==2.20.2; extra == "pytorch"']
    write_distribution(rig.site, "transformer_engine", "2.20.2", requires=requires)


def a_known_break(rig: Rig) -> None:
    install(rig, without="datasets")
    write_distribution(rig.site, "datasets", "4.1", requires=["pyarrow>=21", "numpy"])
    write_distribution(rig.site, "pyarrow", "26.0.1")
    write_distribution(rig.site, "numpy", "1.26.4")


# What is done to eight H100s with all that the recipe requires, the target, the reason, the fix, the action.
REASONS: dict[str, tuple[Change, str, str, str, str]] = {
    "a package is missing": (
        lambda rig: install(rig, without="datasets"),
        "esm2-650m",
        "^ESM-2 650M cannot be trained here: 1 package of its recipe is missing: datasets$",
        r'^\$ pip install "datasets"\nor build its container, on nvcr\.io/nvidia/pytorch:26\.04-py3: in '
        r"bionemo-recipes/recipes/esm2_native_te",
        "FIX_SOFTWARE",
    ),
    "all packages are missing": (
        lambda rig: None,
        "esm2-650m",
        "11 packages of its recipe are missing: datasets, hydra-core, megatron-fsdp, .*, wandb, nvdlfw_inspect$",
        r'^\$ pip install "datasets" .*"transformers>=5\.0\.0" .*\n'
        r'\$ pip install --no-build-isolation "transformer_engine\[pytorch\]"\nor build',
        "FIX_SOFTWARE",
    ),
    "a package is too old": (
        lambda rig: install(rig, transformers="4.51.3"),
        "esm2-650m",
        r"here: transformers 4\.51\.3 is installed, its recipe needs >=5\.0\.0$",
        r'^\$ pip install "transformers>=5\.0\.0"\n',
        "FIX_SOFTWARE",
    ),
    "a package has a version that is none": (
        lambda rig: install(rig, transformers="latest"),
        "esm2-650m",
        r"here: transformers latest is installed, its recipe needs >=5\.0\.0$",
        "transformers>=5",
        "FIX_SOFTWARE",
    ),
    "something is missing below": (
        lacking_below,
        "esm2-650m",
        r"here: datasets 4\.1 requires pyarrow>=21: it is not installed$",
        r'^\$ pip install "pyarrow>=21"$',
        "FIX_SOFTWARE",
    ),
    "what an extra brings is missing": (
        lacking_of_an_extra,
        "esm2-650m",
        r"here: transformer-engine\[pytorch\] 2\.20\.2 requires transformer-engine-torch==2\.20\.2: it is not inst",
        r'^\$ pip install --no-build-isolation "transformer_engine\[pytorch\]"\n',
        "FIX_SOFTWARE",
    ),
    "a known change breaks it": (
        a_known_break,
        "esm2-650m",
        r"here: pyarrow 26 does not import with numpy below 2",
        r'^\$ pip install "pyarrow<26"$',
        "FIX_SOFTWARE",
    ),
    "the GPU is too old": (
        lambda rig: install(on(rig, T4x1)),
        "esm2-8m",
        r"here: gpu0 \(Tesla T4\) has compute capability 7\.5, bf16 needs 8\.0$",
        r"use GPUs of compute capability 8\.0 or newer",
        "NONE",
    ),
    "the memory is too small": (
        lambda rig: install(on(rig, A10Gx1, version="2.10.0", cuda="12.8")),
        "esm2-3b",
        r"here: training takes 4\d\.\d GB on each GPU \(1 GPU, micro-batch 1\), gpu0 \(NVIDIA A10G\) has 24\.1 GB$",
        r"use GPUs with 4\d\.\d GB of memory\nor at least 4 GPUs with 24\.1 GB",
        "NONE",
    ),
    "there are too few GPUs": (
        lambda rig: install(rig, "llama3"),
        "llama3-70b",
        r"here: training takes 173\.\d GB on each GPU \(FSDP over 8 GPUs, context parallel 8, micro-batch 1\), "
        r"gpu0 \(NVIDIA H100 80GB HBM3\) has 85\.5 GB$",
        r"or at least 32 GPUs with 85\.5 GB",
        "NONE",
    ),
    "a model that is no transformer keeps activations too": (
        lambda rig: install(on(rig, RTX4090x1), "evo2"),
        "evo2-1b",
        r"training takes at least 3\d\.\d GB on each GPU \(1 GPU, micro-batch 1\), "
        r"gpu0 \(NVIDIA GeForce RTX 4090\) has 25\.8 GB",
        "or at least 2 GPUs",
        "NONE",
    ),
    "the parameters are too many": (
        lambda rig: install(rig, "evo2"),
        "evo2-40b",
        r"training takes at least 110\.\d GB on each GPU \(Megatron over 8 GPUs, micro-batch 1\)",
        r"or at least 16 GPUs with 85\.5 GB",
        "NONE",
    ),
    "a MIG slice is small and alone": (
        lambda rig: install(on(rig, H100_MIG)),
        "esm2-3b",
        r"training takes 4\d\.\d GB on each GPU \(1 GPU, micro-batch 1\), gpu0-mig0 \(.* MIG 3g\.40gb\) has 42\.4 GB",
        r"use GPUs with 4\d\.\d GB of memory$",
        "NONE",
    ),
    "PyTorch is for another CUDA": (
        lambda rig: install(on(rig, H100x8, version="2.10.0", cuda="12.8"), "evo2"),
        "evo2-7b",
        r"PyTorch 2\.10\.0 is built for CUDA 12\.8, its packages for CUDA 13",
        "install a PyTorch for CUDA 13",
        "FIX_SOFTWARE",
    ),
    "another processor": (
        on_aarch64,
        "evo2-7b",
        "the processor is aarch64, its packages are made for x86_64",
        "use a machine with a processor of x86_64",
        "FIX_SOFTWARE",
    ),
    "its PyTorch is in an image alone": (
        lambda rig: install(rig, "amplify"),
        "amplify-120m",
        r"torch 2\.\d+\.\d+ is installed, its recipe needs ==2\.6\.0a0\+ecf3bae40a\.nv25\.01",
        r"docker build -t amplify",
        "FIX_SOFTWARE",
    ),
}


@pytest.mark.parametrize("fault", REASONS)
def test_a_target_that_cannot_run_is_a_blocker_with_its_reason(healthy_rig: Rig, fault: str) -> None:
    inject, name, message, fix, action = REASONS[fault]
    inject(healthy_rig)
    run = wanted(healthy_rig, name)
    check = f"targets::is_runnable[{name}]"
    assert run.verdict == "BLOCKED"
    assert run.blockers == [check]
    finding = run.finding(check)
    assert re.search(message, finding["message"]), finding["message"]
    assert re.search(fix, "\n".join(finding["fix"])), finding["fix"]
    assert finding["action"] == action
    assert finding["why"]
    assert finding["message"].endswith("; ".join(entry(run, name)["reasons"]))


def test_what_a_bionemo_package_lacks_is_its_own_finding(healthy_rig: Rig) -> None:
    install(healthy_rig, "evo2", without="bionemo-core")
    write_distribution(healthy_rig.site, "bionemo-core", "2.4.5", requires=["platformdirs"])
    run = wanted(healthy_rig, "evo2-7b")
    assert run.blockers == ["packages::requirements_met[bionemo-core]"]
    waits_for = run.gap("targets::is_runnable[evo2-7b]")["waits_for"]
    assert waits_for == "bionemo/packages::requirements_met[bionemo-core]"


def test_what_is_built_where_nobody_publishes_it_runs(healthy_rig: Rig) -> None:
    on_aarch64(healthy_rig, without="")
    run = wanted(healthy_rig, "evo2-7b")
    assert run.outcome("targets::is_runnable[evo2-7b]") == "passed"


def test_a_gpu_without_memory_of_its_own_has_the_hosts(healthy_rig: Rig) -> None:
    install(on(healthy_rig, H100x8.with_fault("nvmlDeviceGetMemoryInfo", 3)))
    healthy_rig.files.bind("/proc/meminfo", healthy_rig.write("meminfo", "MemTotal:       125829120 kB\n"))
    found = entry(wanted(healthy_rig))
    assert found["available_memory_bytes"] == 125829120 * 1024
    assert found["runnable"] is True
    assert found["largest_micro_batch"] > 40


@proves("targets::is_runnable", "a GPU too old and too small, packages missing", "driver library")
def test_every_reason_is_told_in_one_finding(rig: Rig) -> None:
    run = wanted(on(rig, T4x1), "esm2-3b")
    assert run.blockers == ["targets::is_runnable[esm2-3b]"]
    message = run.finding("targets::is_runnable[esm2-3b]")["message"]
    assert [word for word in ("7.5", "training takes", "11 packages") if word not in message] == []
    assert len(entry(run, "esm2-3b")["reasons"]) == 3
    assert run.finding("targets::is_runnable[esm2-3b]")["action"] == "FIX_SOFTWARE"


def test_a_recipe_for_newer_pythons_says_so(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("bionemo/targets::is_runnable[codonfm-1b]")
    said = [reason for reason in entry(run, "codonfm-1b")["reasons"] if "Python" in reason]
    expected = [] if sys.version_info >= (3, 12) else [f"this is Python {sys.version.split()[0]}, it needs >=3.12"]
    assert said == expected


@pytest.mark.parametrize(
    ("break_it", "waits_for", "reason"),
    [
        (lambda rig: setattr(rig, "node", None), "driver::loads", "the NVIDIA driver does not answer"),
        (lambda rig: setattr(rig, "torch", None), "torch::installed", "PyTorch is not installed"),
        (
            lambda rig: setattr(rig, "torch", StandinTorch(import_error="ImportError: libcublas.so.12: no")),
            "torch::imports",
            "PyTorch does not import",
        ),
        (
            lambda rig: setattr(rig, "torch", StandinTorch(version="2.13.0+cpu", cuda=None)),
            "torch::is_cuda_build",
            "PyTorch is not built for CUDA",
        ),
        (
            lambda rig: setattr(rig, "node", H100x8.with_gpu_fault(3, "nvmlDeviceGetMemoryInfo", 999)),
            "driver::answers[gpu3]",
            "gpu3 does not answer",
        ),
        (
            lambda rig: rig.variables.update(CUDA_VISIBLE_DEVICES="-1"),
            "driver::visible_devices_valid",
            "no GPU is visible",
        ),
        (
            lambda rig: setattr(rig, "node", H100x8.with_driver("550.144.03", 12040)),
            "driver::supports_torch_cuda",
            "the driver does not run CUDA 13.0",
        ),
    ],
)
def test_what_another_check_has_to_say_is_one_root_cause(
    healthy_rig: Rig, break_it: Change, waits_for: str, reason: str
) -> None:
    install(healthy_rig)
    break_it(healthy_rig)
    run = wanted(healthy_rig)
    assert run.verdict == "BLOCKED"
    assert ESM2 not in run.blockers
    assert waits_for in run.blockers
    gap = run.gap(ESM2)
    assert (gap["waits_for"], gap["required"]) == (f"bionemo/{waits_for}", True)
    assert gap["reason"] == reason
    # The report tells it of every target.
    assert reason in entry(run)["reasons"]
    assert reason in entry(run, "esm2-8m")["reasons"]


def test_a_reason_of_its_own_is_told_beside_another_root_cause(healthy_rig: Rig) -> None:
    healthy_rig.node = None
    run = wanted(healthy_rig)
    assert sorted(run.blockers) == ["driver::loads", ESM2]
    assert "the NVIDIA driver does not answer; 11 packages" in run.finding(ESM2)["message"]


def test_a_rehearsal_judges_no_target(healthy_rig: Rig) -> None:
    run = wanted(healthy_rig, "esm2-650m", "--bionemo-device=cpu")
    assert run.gap(ESM2)["reason"] == "a rehearsal on the CPU asks no GPU"
    assert not entry(run)["runnable"]


# ---- what the report says of this machine


def test_checkpoints_are_those_for_these_gpus(rig: Rig) -> None:
    both = ["arcinstitute/savanna_evo2_40b_base", "evo2/40b-1m-fp8-bf16:1.0"]
    for node, expected in ((H100x8, both), (B200x8, both[1:])):
        run = on(rig, node).validate("bionemo/targets::is_runnable[evo2-40b]")
        assert entry(run, "evo2-40b")["checkpoints"] == expected


def test_published_figures_are_those_of_the_same_gpu(rig: Rig) -> None:
    run = on(rig, B200x8).validate("bionemo/targets::is_runnable[esm2-15b]")
    assert {figure["gpu"] for figure in entry(run, "esm2-15b")["published"]} == {"B200 HGX"}
    assert entry(run, "esm2-15b")["formats"] == ["bf16", "fp8", "mxfp8", "nvfp4"]


def test_the_gpus_are_those_that_are_visible(healthy_rig: Rig) -> None:
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = "0,1"
    run = healthy_rig.validate("bionemo/targets::is_runnable[esm2-15b]")
    assert "FSDP over 2 GPUs" in entry(run, "esm2-15b")["plan"]


MEASURED = {
    "unit": "1", "samples": 9, "ci95": None, "reference": None, "peer_median": None, "baseline": None,
    "judgement": None,
}  # fmt: skip


def number(name: str, value: float | None, bound: float | None, device: str = "GPU-1") -> Json:
    return {**MEASURED, "name": name, "value": value, "bound": bound, "device": device}


def expectation(
    *measurements: Mapping[str, Any], flop_per_token: int | None = 4_000_000_000, formats: Sequence[str] = ("bf16",)
) -> tuple[Any, Any]:
    target: Json = {"name": "esm2-650m", "formats": list(formats), "flop_per_token": flop_per_token}
    target |= {"expected_tokens_per_s": None, "expected_from": None}
    (found,) = document.recorded([dict(entry) for entry in measurements], [target])["targets"]
    return found["expected_tokens_per_s"], found["expected_from"]


def test_the_expected_tokens_follow_from_what_was_measured_here() -> None:
    """40 % of 1000 TFLOP/s, at 4 GFLOP a token."""
    peak, utilisation = number("matmul_bf16", 700.0, 1000.0), number("esm2_650m_mfu", 0.4, 1.0)
    tokens, said = expectation(utilisation, peak)
    assert tokens == pytest.approx(100_000)
    assert said == "a utilisation of 40% in training ESM-2 650M here"


def test_the_slowest_gpu_sets_the_pace() -> None:
    slow = [number("matmul_bf16", 700.0, 1000.0, "GPU-2"), number("esm2_650m_mfu", 0.1, 1.0, "GPU-2")]
    tokens, _ = expectation(number("matmul_bf16", 700.0, 1000.0), number("esm2_650m_mfu", 0.4, 1.0), *slow)
    assert tokens == pytest.approx(25_000)


@pytest.mark.parametrize(
    "measurements",
    [
        [],
        [number("esm2_650m_mfu", 0.4, 1.0)],
        [number("matmul_bf16", 700.0, 1000.0)],
        [number("esm2_650m_mfu", 0.4, 1.0), number("matmul_bf16", 700.0, 1000.0, "GPU-2")],
        [number("esm2_650m_mfu", 0.4, 1.0), number("matmul_bf16", 700.0, None)],
        [number("esm2_650m_mfu", None, 1.0), number("matmul_bf16", 700.0, 1000.0)],
        [number("esm2_650m_step", 0.4, 1.0), number("matmul_bf16", 700.0, 1000.0)],
    ],
)
def test_nothing_is_expected_where_nothing_was_measured(measurements: list[Json]) -> None:
    assert expectation(*measurements) == (None, None)


def test_nothing_is_expected_of_what_is_no_transformer_or_has_no_gpu() -> None:
    measured = [number("matmul_bf16", 700.0, 1000.0), number("esm2_650m_mfu", 0.4, 1.0)]
    assert expectation(*measured, flop_per_token=None) == (None, None)
    assert expectation(*measured, formats=()) == (None, None)


# ---- what else the verdict asks for

PACKAGES = """
import pytest
from pytest_bionemo import check, fail

@check(about="{name}")
@pytest.mark.parametrize("name", ["bionemo-scdl", "transformer_engine"])
def works(name):
    "It works."
    if name in BROKEN:
        fail(f"{name} is broken")

@check(about="bionemo-moco")
def flows(  ):
    "It flows."
    if "skipped" in BROKEN:
        pytest.skip("no reason")

@check()
def concerns_all():
    "It concerns every target."
"""


def with_packages(rig: Rig, *broken: str) -> Rig:
    install(rig)
    rig.write("our/__init__.py", "")
    rig.write("our/parts.py", f"BROKEN = {broken!r}\n{PACKAGES}")
    rig.write("conftest.py", "def pytest_bionemo_checks(config):\n    return ['our.parts']\n")
    rig.variables["PYTHONPATH"] = os.pathsep.join([str(rig.site), str(rig.project)])
    return rig


def test_without_targets_every_broken_package_is_a_blocker(healthy_rig: Rig) -> None:
    run = with_packages(healthy_rig, "bionemo-scdl").validate()
    assert run.verdict == "BLOCKED"
    assert run.blockers == ["parts::works[bionemo-scdl]"]


def test_with_targets_what_none_of_them_needs_only_warns(healthy_rig: Rig) -> None:
    run = wanted(with_packages(healthy_rig, "bionemo-scdl", "skipped"))
    assert (run.verdict, run.returncode) == ("READY", 0), run.bionemo
    assert run.warnings == ["parts::works[bionemo-scdl]"]
    assert run.gap("parts::flows")["required"] is False
    severities = {check["id"]: check["severity"] for check in run.bionemo["checks"] if check["topic"] == "parts"}
    assert severities == {
        "bionemo/parts::works[bionemo-scdl]": "warning",
        "bionemo/parts::works[transformer_engine]": "blocker",
        "bionemo/parts::flows": "warning",
        "bionemo/parts::concerns_all": "blocker",
    }


def test_with_targets_what_one_of_them_needs_is_a_blocker(healthy_rig: Rig) -> None:
    run = wanted(with_packages(healthy_rig, "transformer_engine"))
    assert run.verdict == "BLOCKED"
    assert run.blockers == ["parts::works[transformer_engine]"]


def test_a_target_that_was_asked_for_and_deselected_is_a_gap(healthy_rig: Rig) -> None:
    install(healthy_rig)
    run = wanted(healthy_rig, "esm2-650m", "--deselect", f"bionemo/{ESM2}")
    assert run.verdict == "INCONCLUSIVE"
    assert run.gap(ESM2) == {
        "check": f"bionemo/{ESM2}", "reason": "deselected", "waits_for": None, "required": True,
    }  # fmt: skip


def test_a_target_that_nobody_asked_for_may_be_deselected(healthy_rig: Rig) -> None:
    install(healthy_rig)
    run = healthy_rig.validate("--deselect", f"bionemo/{ESM2}")
    assert run.verdict == "READY"
    assert run.gap(ESM2)["required"] is False


# ---- the memory model against this machine

MEMORY = "targets::memory_is_as_estimated[cpu0]"

# Every linear layer leaves a megabyte behind.
HOARD = """
linear, hoard = torch.nn.functional.linear, []
def keeping(*args):
    hoard.append(torch.zeros(1 << 18))
    return linear(*args)
torch.nn.functional.linear = keeping
"""


def test_a_training_step_takes_the_memory_that_is_estimated(compute_rig: Rig) -> None:
    listed = [f"bionemo/targets::is_runnable[{name}]" for name in ("esm2-8m", "esm2-650m")]
    run = compute_rig.rehearse(f"bionemo/{MEMORY}", *listed)
    assert run.outcome(MEMORY) == "passed", run.stdout
    (measured,) = run.bionemo["measurements"]
    assert entry(run, "esm2-8m")["measured"] == [{key: measured[key] for key in ("name", "value", "unit", "device")}]
    assert entry(run, "esm2-650m")["measured"] == []
    assert (measured["name"], measured["unit"]) == ("esm2_8m_training_memory", "B")
    assert measured["value"] == pytest.approx(measured["reference"], rel=0.10)


@proves("targets::memory_is_as_estimated", "a step takes more memory", "kernel", "NONE")
def test_a_step_that_takes_more_memory_is_told(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(HOARD)
    run = compute_rig.rehearse(f"bionemo/{MEMORY}")
    assert run.outcome(MEMORY) == "warned", run.stdout
    assert re.search(r"cpu0: a training step of ESM-2 8M takes 0\.2 GB, not 0\.1 GB", run.finding(MEMORY)["message"])
