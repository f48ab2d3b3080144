"""The checks of number formats: healthy devices pass, each fault is found; GPUs are played, from what they answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conftest import REPORT, Rig
from faults import proves
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import precision
from pytest_bionemo.compute import Compute, ComputeDevice
from pytest_bionemo.model import Action, Finding, Gpu
from pytest_bionemo.options import Options
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild
from pytest_bionemo.worker import Workers
from standin.distributions import write_distribution
from standin.transformer_engine import UNDEFINED_SYMBOL, VERSION, write_transformer_engine

TOPIC = "bionemo/precision"
NOT_ON_THE_CPU = [
    "supports[cpu0-fp8_block]",
    "supports[cpu0-mxfp8]",
    "supports[cpu0-nvfp4]",
    "tf32_is_used_when_allowed[cpu0]",
    "tf32_is_not_used_unasked[cpu0]",
    "agrees_with_float64[cpu0-tf32]",
]
ON_THE_CPU = [
    *(f"supports[cpu0-{format}]" for format in ("fp16", "bf16", "fp8")),
    *(f"autocast_uses_its_precisions[cpu0-{format}]" for format in ("bf16", "fp16")),
    *(f"agrees_with_float64[cpu0-{format}]" for format in ("fp32", "bf16", "fp16", "fp8")),
    "grad_scaler_recovers[cpu0]",
]
ENGINE = [
    "transformer_engine_imports[cpu0]",
    *(f"transformer_engine_layer[cpu0-{format}]" for format in ("fp8", "fp8_block", "mxfp8", "nvfp4")),
]

KERNEL = """
import warnings
warnings.simplefilter("ignore")
library = torch.library.Library("aten", "IMPL")
"""


# ------------------------------------------------------------------------------------- the workers of a rehearsal


def test_a_healthy_cpu_passes_all_that_a_cpu_can(compute_rig: Rig) -> None:
    run = compute_rig.rehearse(TOPIC)
    assert {name: run.outcome(f"precision::{name}") for name in ON_THE_CPU} == dict.fromkeys(ON_THE_CPU, "passed")
    left_out = [*NOT_ON_THE_CPU, *ENGINE]
    collected = [check["id"] for check in run.bionemo["checks"] if check["topic"] == "precision"]
    assert sorted(collected) == sorted(f"{TOPIC}::{name}" for name in ON_THE_CPU + left_out)
    assert {name: run.outcome(f"precision::{name}") for name in left_out} == dict.fromkeys(left_out, "not_applicable")
    measured = {entry["name"]: entry for entry in run.bionemo["measurements"]}
    assert set(measured) == {f"float64_error_{format}" for format in ("fp32", "bf16", "fp16", "fp8")}
    for entry in measured.values():
        assert (entry["unit"], entry["bound"], entry["device"]) == ("1", 1.0, "cpu0")
        assert 0 < entry["value"] < 0.5


SILENT_AUTOCAST = (
    KERNEL
    + """
def in_fp32(a, weight, bias=None):
    with torch.autocast("cpu", enabled=False):
        return torch.nn.functional.linear(a.float(), weight.float()).to(torch.get_autocast_dtype("cpu"))
library.impl("linear", in_fp32, "AutocastCPU")
"""
)
BLIND_SCALER = """
def blind(gradients, found_inf, inverse_scale):
    for gradient in gradients:
        gradient.mul_(inverse_scale)
library.impl("_amp_foreach_non_finite_check_and_unscale_", blind, "CPU")
"""


@proves("precision::autocast_uses_its_precisions", "autocast computes in FP32", "kernel")
@proves("precision::grad_scaler_recovers", "the gradient scaler skips no step", "kernel")
def test_silent_fp32_under_autocast_and_a_scaler_that_does_not_skip_are_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(SILENT_AUTOCAST + BLIND_SCALER)
    run = compute_rig.rehearse(f"{TOPIC}::autocast_uses_its_precisions", f"{TOPIC}::grad_scaler_recovers")
    assert run.verdict == "BLOCKED"
    for format in ("bf16", "fp16"):
        finding = run.finding(f"precision::autocast_uses_its_precisions[cpu0-{format}]")
        name = format.upper()
        assert finding["message"] == (
            f"cpu0: under autocast to {name}, linear computes 128 of 128 elements in FP32 and casts them to {name}"
        )
        assert finding["device"] == "cpu0"
    message = run.finding("precision::grad_scaler_recovers[cpu0]")["message"]
    assert message.startswith("cpu0: step 2 of 5 has a gradient that is inf and was not skipped: it changed ")
    assert message.endswith(" of 136 parameters, 1 of them to NaN or infinity")


FAULTY_PRODUCTS = (
    KERNEL
    + """
def faulty(a, b):
    result = torch.bmm(a.unsqueeze(0), b.unsqueeze(0))[0]
    if a.dtype == torch.bfloat16:
        result[5, 7] = torch.nan
    if a.dtype == torch.float16:
        result[5, 7] *= 1 + 2**-5
    return result
library.impl("mm", faulty, "CPU")
"""
)


@proves("precision::supports", "one NaN in a product", "kernel")
@proves("precision::agrees_with_float64", "a product is off by a 32nd", "kernel")
def test_one_nan_and_one_error_of_a_32nd_are_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(FAULTY_PRODUCTS)
    run = compute_rig.rehearse(f"{TOPIC}::agrees_with_float64", f"{TOPIC}::supports")
    outcomes = {name: run.outcome(f"precision::{name}") for name in ON_THE_CPU if name.startswith(("agrees", "supp"))}
    assert outcomes == {
        name: "failed" if "bf16" in name or "fp16" in name else "passed"
        for name in outcomes
    }  # fmt: skip
    message = run.finding("precision::agrees_with_float64[cpu0-bf16]")["message"]
    assert message.startswith(
        "cpu0: 1 element of a product in BF16 is NaN or infinite; the first, in row 5 and column 7,"
    )
    message = run.finding("precision::agrees_with_float64[cpu0-fp16]")["message"]
    assert message.startswith(
        "cpu0: 1 element of a product in FP16 is farther from FP64 than the error bound, 0.0015"
    )
    assert "in row 5 and column 7" in message
    message = run.finding("precision::supports[cpu0-bf16]")["message"]
    assert message.startswith(
        "cpu0: 1 of 32768 elements of a product BF16 x BF16 in BF16 are wrong; the first, in row 5"
    )
    # No GPU took part: there is none to replace.
    assert {finding["action"] for finding in run.bionemo["blockers"]} == {"FIX_SOFTWARE"}


@proves("precision::transformer_engine_imports", "Transformer Engine is built for another PyTorch", "distribution")
def test_a_transformer_engine_of_another_build_is_found(compute_rig: Rig) -> None:
    write_transformer_engine(compute_rig.site, import_error=UNDEFINED_SYMBOL)
    run = compute_rig.rehearse(
        *(f"{TOPIC}::{name}" for name in ("transformer_engine_imports", "transformer_engine_layer"))
    )
    finding = run.finding(f"precision::{ENGINE[0]}")
    assert finding["message"] == (
        f"Transformer Engine {VERSION} does not import in the worker of cpu0: ImportError: {UNDEFINED_SYMBOL}"
    )
    assert finding["why"] == "it was compiled for another PyTorch or CUDA"
    assert run.blockers == [f"precision::{ENGINE[0]}"], "one root cause"


def test_a_transformer_engine_that_imports_passes(compute_rig: Rig) -> None:
    write_transformer_engine(compute_rig.site)
    run = compute_rig.rehearse(f"{TOPIC}::transformer_engine_imports")
    assert run.outcome(f"precision::{ENGINE[0]}") == "passed"


# ----------------------------------------------------------------------------------------------- GPUs, as played


class PlayedGpu:
    """A GPU whose worker gives the answers that a test wants; everything else is as in a run.

    Without a capability and a CUDA it is the CPU in a rehearsal.
    """

    def __init__(
        self, capability: tuple[int, int] | None, cuda: str | None, answers: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.properties: list[tuple[str, object]] = []
        gpu = Gpu(0, "GPU-a", "NVIDIA Played", compute_capability=capability) if capability else None
        machine = SimpleNamespace(torch_build=TorchBuild(version="2.8.0", cuda=cuda))
        self.compute = Compute(
            ComputeDevice("gpu0", "GPU-a", gpu) if gpu else ComputeDevice("cpu0", "cpu0"),
            cast(Workers, self),
            cast(Machine, machine),
            Options(True, "standard", "cuda" if gpu else "cpu", "install", REPORT, 60.0, None),
            self.properties,
        )

    def run(self, device: str, workload: str, /, **parameters: Any) -> Mapping[str, Any]:
        """In the place of Workers.run."""
        name = workload.removeprefix("pytest_bionemo.workloads.")
        self.asked.append(name)
        return self.answers[name]


EXACT = {
    "absent": None,
    "refused": None,
    "products": {"E4M3 x E4M3": {"elements": 4, "mismatches": 0, "first": None}},
}
AGREES = {"absent": None, "refused": None, "bound": 0.1, "not_finite": 0, "largest_share": 0.25, "beyond": 0,
          "worst": [1, 2, 3.0, 3.1]}  # fmt: skip
IN_FP32 = {"in_fp32": 16, "in_tf32": 0, "in_neither": 0}
IN_TF32 = {"in_fp32": 0, "in_tf32": 16, "in_neither": 0}
LAYER = {**AGREES, "elements": 9, "as_unquantized": 5, "gradient_elements": 8, "gradient_not_finite": 0,
         "gradient_zero": 0}  # fmt: skip
H100, B200, A100, T4 = (9, 0), (10, 0), (8, 0), (7, 5)

Check = Callable[..., None]


def finding_of(check: Check, gpu: PlayedGpu, *parameters: str) -> Finding:
    with pytest.raises(CheckFailed) as caught:
        check(gpu.compute, *parameters)
    return caught.value.finding


@pytest.mark.parametrize(
    ("capability", "format", "seen"),
    [
        (T4, "bf16", "has compute capability 7.5; BF16 needs PyTorch: compute capability 8.0 or newer"),
        (A100, "fp8", "BioNeMo ESM-2: 9.0 or newer; BioNeMo Geneformer: 8.9 or newer"),
        (H100, "mxfp8", "Transformer Engine: 10.0 to below 12.0"),
        (H100, "nvfp4", "has compute capability 9.0; NVFP4 needs"),
        (B200, "fp8_block", "PyTorch: compute capability 9.0 to below 10.0 with CUDA 12.9 or newer"),
    ],
)
def test_a_format_that_the_gpu_has_not_got_does_not_apply(
    capability: tuple[int, int], format: str, seen: str
) -> None:
    gpu = PlayedGpu(capability, "13.0", {})
    with pytest.raises(NotApplicable, match=seen.replace(".", r"\.")):
        precision.supports(gpu.compute, format)
    assert gpu.asked == []


@pytest.mark.parametrize(
    ("capability", "format"),
    [(T4, "fp16"), (A100, "bf16"), (H100, "fp8"), (H100, "fp8_block"), (B200, "mxfp8"), (B200, "nvfp4")],
)
def test_a_format_that_the_gpu_has_is_run(capability: tuple[int, int], format: str) -> None:
    gpu = PlayedGpu(capability, "13.0", {"low_precision:run": EXACT})
    precision.supports(gpu.compute, format)
    assert gpu.asked == ["low_precision:run"]


def test_a_build_for_an_older_cuda_than_the_gpu_deserves_is_a_warning() -> None:
    finding = finding_of(precision.supports, PlayedGpu(H100, "12.8", {}), "fp8_block")
    assert finding.message == (
        "gpu0 (NVIDIA Played) has FP8 with block scaling, but PyTorch 2.8.0 is built for CUDA 12.8, and PyTorch "
        "needs CUDA 12.9 or newer for it"
    )
    assert finding.severity == "warning"


def test_a_build_without_the_dtype_is_a_warning() -> None:
    answer = {**EXACT, "absent": "torch.float4_e2m1fn_x2"}
    finding = finding_of(precision.supports, PlayedGpu(B200, "13.0", {"low_precision:run": answer}), "nvfp4")
    assert "has NVFP4, but PyTorch 2.8.0 has no torch.float4_e2m1fn_x2" in finding.message
    assert finding.severity == "warning"


@pytest.mark.parametrize(("format", "severity"), [("bf16", "blocker"), ("fp8", "warning")])
def test_a_refusal_blocks_only_where_nothing_can_train_without_the_format(format: str, severity: str) -> None:
    gpu = PlayedGpu(H100, "13.0", {"low_precision:run": {**EXACT, "refused": "no kernel"}})
    finding = finding_of(precision.supports, gpu, format)
    assert "refuses to multiply in it: no kernel" in finding.message
    assert finding.severity == severity


def test_a_cpu_without_kernels_for_fp8_is_no_finding() -> None:
    cpu = PlayedGpu(None, None, {"low_precision:run": {**EXACT, "refused": "no kernel"}})
    with pytest.raises(NotApplicable, match=r"cpu0: PyTorch 2\.8\.0 has no FP8 for the CPU: no kernel"):
        precision.supports(cpu.compute, "fp8")


@proves("precision::supports", "a GPU multiplies wrong", "worker", "REPLACE_NODE")
def test_a_wrong_product_of_a_gpu_has_it_replaced() -> None:
    wrong = {"elements": 32768, "mismatches": 3, "first": [1, 2, 8.0, 9.0]}
    gpu = PlayedGpu(B200, "13.0", {"low_precision:run": {**EXACT, "products": {"E2M1 x E2M1": wrong}}})
    finding = finding_of(precision.supports, gpu, "nvfp4")
    assert finding.message == (
        "gpu0 (NVIDIA Played): 3 of 32768 elements of a product E2M1 x E2M1 in NVFP4 are wrong; the first, in row 1 "
        "and column 2, is 8 and not 9"
    )
    assert finding.action is Action.REPLACE_NODE
    assert finding.severity is None, "a blocker"


def tf32_gpu(allowed: Mapping[str, int], forbidden: Mapping[str, int], override: str | None = None) -> PlayedGpu:
    answer = {"allowed": allowed, "forbidden": forbidden, "override": override}
    return PlayedGpu(A100, "13.0", {"tf32:run": answer})


def test_tf32_that_is_used_when_it_is_allowed_and_only_then_passes() -> None:
    gpu = tf32_gpu(IN_TF32, IN_FP32)
    precision.tf32_is_used_when_allowed(gpu.compute)
    precision.tf32_is_not_used_unasked(gpu.compute)
    assert gpu.asked == ["tf32:run", "tf32:run"]


@proves("precision::tf32_is_used_when_allowed", "TF32 is allowed and not used", "worker", severity="warning")
def test_tf32_that_is_not_used_is_a_warning_with_the_variable_at_fault() -> None:
    finding = finding_of(precision.tf32_is_used_when_allowed, tf32_gpu(IN_FP32, IN_FP32, "NVIDIA_TF32_OVERRIDE=0"))
    assert "16 of 16 elements of a product were computed in FP32" in finding.message
    assert finding.fix == ("$ unset NVIDIA_TF32_OVERRIDE  # it is 0",)
    assert finding.severity == "warning"


@proves("precision::tf32_is_not_used_unasked", "TF32 is used unasked", "worker")
def test_tf32_that_nobody_asked_for_is_a_blocker() -> None:
    finding = finding_of(precision.tf32_is_not_used_unasked, tf32_gpu(IN_TF32, IN_TF32, "NVIDIA_TF32_OVERRIDE=1"))
    assert "TF32 is forbidden, but 16 of 16 elements of a product were computed in it" in finding.message
    assert finding.fix == ("$ unset NVIDIA_TF32_OVERRIDE  # it is 1",)
    assert finding.severity is None


def test_a_product_that_neither_format_gives_is_a_blocker() -> None:
    wrong = {"in_fp32": 0, "in_tf32": 15, "in_neither": 1}
    for check, gpu in (
        (precision.tf32_is_used_when_allowed, tf32_gpu(wrong, IN_FP32)),
        (precision.tf32_is_not_used_unasked, tf32_gpu(IN_TF32, wrong)),
    ):
        finding = finding_of(check, gpu)
        assert "1 of 16 elements of a product with the identity matrix are neither" in finding.message
        assert (finding.severity, finding.action) == (None, Action.REPLACE_NODE)


def test_tf32_does_not_apply_to_a_gpu_without_it() -> None:
    with pytest.raises(NotApplicable, match=r"7\.5; TF32 needs PyTorch: compute capability 8\.0 or newer"):
        precision.tf32_is_used_when_allowed(PlayedGpu(T4, "13.0", {}).compute)


def operation(kind: str, dtype: str, right: int, wrong: int) -> dict[str, Any]:
    expected = "torch.bfloat16" if kind == "lower" else "torch.float32"
    return {"kind": kind, "dtype": dtype, "expected_dtype": expected, "elements": 8, "right": right, "wrong": wrong}


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (operation("lower", "torch.float32", 8, 0), "linear gives torch.float32 and not torch.bfloat16"),
        (operation("lower", "torch.bfloat16", 7, 0), "1 of 8 elements of linear are wrong in any precision"),
        (
            operation("lower", "torch.bfloat16", 0, 8),
            "linear computes 8 of 8 elements in FP32 and casts them to BF16",
        ),
        (operation("fp32", "torch.bfloat16", 8, 0), "linear gives torch.bfloat16 and not torch.float32"),
        (operation("fp32", "torch.float32", 5, 3), "3 of 8 elements of linear are less accurate than FP32 is"),
    ],
)
def test_what_autocast_does_wrong_is_named(seen: Mapping[str, Any], message: str) -> None:
    sound = operation("fp32", "torch.float32", 8, 0)
    gpu = PlayedGpu(H100, "13.0", {"autocast:run": {"operations": {"softmax": sound, "linear": seen}}})
    finding = finding_of(precision.autocast_uses_its_precisions, gpu, "bf16")
    assert finding.message == f"gpu0 (NVIDIA Played): under autocast to BF16, {message}"


def test_the_share_of_the_bound_is_measured_and_kept_also_where_it_is_broken() -> None:
    beyond = {**AGREES, "beyond": 2, "largest_share": 2.5}
    gpu = PlayedGpu(H100, "13.0", {"float64_agreement:run": beyond})
    finding = finding_of(precision.agrees_with_float64, gpu, "tf32")
    assert finding.message == (
        "gpu0 (NVIDIA Played): 2 elements of a product in TF32 are farther from FP64 than the error bound, 0.1 of "
        "the value; the farthest, in row 1 and column 2, is 3 and should be 3.1: 2.5 times the bound"
    )
    assert finding.action is Action.REPLACE_NODE
    ((_, measurement),) = gpu.properties
    assert json.loads(str(measurement))["value"] == 2.5


def test_a_format_that_pytorch_does_not_multiply_is_told_once() -> None:
    refused = {"float64_agreement:run": {"absent": None, "refused": "no kernel"}}
    with pytest.raises(NotRun) as caught:
        precision.agrees_with_float64(PlayedGpu(H100, "13.0", refused).compute, "bf16")
    assert caught.value.waits_for == "precision::supports[gpu0-bf16]"
    # There it is a warning, and here no gap.
    with pytest.raises(NotApplicable, match=r"PyTorch 2\.8\.0 does not multiply in FP8"):
        precision.agrees_with_float64(PlayedGpu(H100, "13.0", refused).compute, "fp8")
    assert "no kernel" in finding_of(precision.agrees_with_float64, PlayedGpu(H100, "13.0", refused), "fp32").message


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"kind": "sound", "wrong": 9},
            "step 1 of 2 has sound gradients, and 9 of 136 parameters are not what it must",
        ),
        (
            {"kind": "nan", "wrong": 9},
            "step 1 of 2 has a gradient that is nan and was not skipped: it changed 9 of 136",
        ),
        (
            {"kind": "nan", "scale": 64.0},
            "after step 1 of 2, with a gradient that is nan, the scale is 64 and not 32",
        ),
        ({"kind": "sound", "scale": 16.0}, "after step 1 of 2, with sound gradients, the scale is 16 and not 32"),
    ],
)
def test_the_first_step_at_fault_is_named(step: Mapping[str, Any], message: str) -> None:
    sound = {"kind": "sound", "elements": 136, "wrong": 0, "not_finite": 0, "scale": 32.0, "expected_scale": 32.0}
    steps = [{**sound, **step}, {**sound, "wrong": 136}]
    finding = finding_of(
        precision.grad_scaler_recovers, PlayedGpu(H100, "13.0", {"grad_scaler:run": {"steps": steps}})
    )
    assert finding.message.startswith(f"gpu0 (NVIDIA Played): {message}")


# ------------------------------------------------------------------------------ Transformer Engine, on GPUs as played


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata in this process, as a check sees it."""
    write_distribution(tmp_path, "transformer_engine", VERSION)
    monkeypatch.syspath_prepend(str(tmp_path))


def engine_gpu(capability: tuple[int, int] = H100, cuda: str = "13.0", **layer: Any) -> PlayedGpu:
    return PlayedGpu(capability, cuda, {"te_fp8:imports": {"error": None}, "te_fp8:run": {**LAYER, **layer}})


def test_without_transformer_engine_nothing_applies() -> None:
    for check, parameters in (
        (precision.transformer_engine_imports, ()),
        (precision.transformer_engine_layer, ("fp8",)),
    ):
        with pytest.raises(NotApplicable, match="Transformer Engine is not installed"):
            check(engine_gpu().compute, *parameters)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("capability", "format"), [((8, 9), "fp8"), (H100, "fp8_block"), ((12, 0), "nvfp4")])
def test_a_layer_that_quantizes_and_agrees_passes(capability: tuple[int, int], format: str) -> None:
    gpu = engine_gpu(capability)
    precision.transformer_engine_imports(gpu.compute)
    precision.transformer_engine_layer(gpu.compute, format)
    assert gpu.asked == ["te_fp8:imports", "te_fp8:imports", "te_fp8:run"]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("capability", "format"), [(A100, "fp8"), (H100, "mxfp8"), ((12, 0), "mxfp8")])
def test_a_recipe_that_the_engine_refuses_on_this_gpu_does_not_apply(
    capability: tuple[int, int], format: str
) -> None:
    with pytest.raises(NotApplicable, match="has compute capability"):
        precision.transformer_engine_layer(engine_gpu(capability).compute, format)


@pytest.mark.usefixtures("engine")
def test_a_layer_waits_for_the_import() -> None:
    gpu = PlayedGpu(H100, "13.0", {"te_fp8:imports": {"error": f"ImportError: {UNDEFINED_SYMBOL}"}})
    with pytest.raises(NotRun) as caught:
        precision.transformer_engine_layer(gpu.compute, "fp8")
    assert caught.value.waits_for == "precision::transformer_engine_imports[gpu0]"


@pytest.mark.usefixtures("engine")
def test_an_import_that_fails_is_named_with_what_to_do() -> None:
    gpu = PlayedGpu(H100, "13.0", {"te_fp8:imports": {"error": f"ImportError: {UNDEFINED_SYMBOL}"}})
    finding = finding_of(precision.transformer_engine_imports, gpu)
    assert "undefined symbol: _ZN3c105ErrorC2E" in finding.message
    assert finding.fix[0].startswith("$ pip install --no-build-isolation --no-deps")
    assert f"transformer_engine_torch=={VERSION}" in finding.fix[0]


@pytest.mark.usefixtures("engine")
def test_an_import_that_wants_the_driver_does_not_apply_to_a_rehearsal() -> None:
    answers = {"te_fp8:imports": {"error": "ImportError: libcuda.so.1: cannot open shared object file"}}
    with pytest.raises(NotApplicable, match="does not import without the NVIDIA driver"):
        precision.transformer_engine_imports(PlayedGpu(None, None, answers).compute)
    # On a GPU the driver is there, and its library is what is wrong.
    assert (
        "libcuda.so.1" in finding_of(precision.transformer_engine_imports, PlayedGpu(H100, "13.0", answers)).message
    )


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("layer", "message", "severity"),
    [
        pytest.param(
            {"beyond": 1, "largest_share": 3.0},
            "1 element of a layer of Transformer Engine 2.9.0 in FP8 is farther",
            None,
            marks=proves("precision::transformer_engine_layer", "a layer is wrong", "worker", "REPLACE_NODE"),
        ),
        ({"not_finite": 2}, "2 elements of a layer of Transformer Engine 2.9.0 in FP8 are NaN or infinite", None),
        ({"as_unquantized": 9}, "gives exactly what it gives in BF16: nothing was quantized", None),
        ({"gradient_not_finite": 1}, "1 of 8 elements of the gradients of a layer in FP8 are NaN or infinite", None),
        ({"gradient_zero": 8}, "all gradients of a layer in FP8 are zero", None),
        ({"absent": "transformer_engine.common.recipe.X"}, "has no transformer_engine.common.recipe.X", "warning"),
        ({"refused": "cublasLt is too old"}, "refuses it: cublasLt is too old", "warning"),
    ],
)
def test_what_a_layer_does_wrong_is_named(layer: Mapping[str, Any], message: str, severity: str | None) -> None:
    finding = finding_of(precision.transformer_engine_layer, engine_gpu(**layer), "fp8")
    assert message in finding.message
    assert finding.severity == severity


@pytest.mark.usefixtures("engine")
def test_block_scaling_that_needs_a_newer_cuda_is_a_warning() -> None:
    finding = finding_of(precision.transformer_engine_layer, engine_gpu(B200, "12.8"), "fp8_block")
    assert "is built for CUDA 12.8, and Transformer Engine needs CUDA 12.9 or newer for it" in finding.message
    assert finding.severity == "warning"
