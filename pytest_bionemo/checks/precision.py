"""Number formats: those that the device has run, each is used where it is asked for, and all are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import pytest

from pytest_bionemo import fixes
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import precision
from pytest_bionemo.facts.precision import PYTORCH, TRANSFORMER_ENGINE
from pytest_bionemo.model import Action, count
from pytest_bionemo.probes import packages

_NAMES = {
    "fp32": "FP32",
    "tf32": "TF32",
    "fp16": "FP16",
    "bf16": "BF16",
    "fp8": "FP8",
    "fp8_block": "FP8 with block scaling",
    "mxfp8": "MXFP8",
    "nvfp4": "NVFP4",
}
# Without one of these nothing trains in mixed precision; without another one, only those who want it do not.
_ESSENTIAL = ("fp32", "fp16", "bf16")
_ON_THE_CPU = (*_ESSENTIAL, "fp8")
_TE = "transformer_engine"
_OR_REPLACE = "if the checks of bionemo/numerics fail too, have the device replaced"
_TERMS = 256
_SEED = 20261122


# ---------------------------------------------------------------------------------- what device and build have


@check(level="standard")
@pytest.mark.parametrize("format", ["fp16", "bf16", "fp8", "fp8_block", "mxfp8", "nvfp4"], ids=str)
def supports(worker: Compute, format: str) -> None:
    """A format that the device has is multiplied, and right to the last bit.

    Why: a model that trains in a format which the build refuses does not start, and in one that is computed wrongly
    learns from wrong numbers.

    How it decides: whether the device has the format follows from its compute capability; then a product of integers
    in it has to be right to the last bit. A build that lacks a format which only some want is a warning.

    Fix: install a PyTorch whose CUDA is new enough for this format; a GPU that computes wrong is to be replaced.
    """
    _require_format(worker, format)
    found = worker.run("low_precision:run", format=format, seed=_SEED)
    if found["absent"]:
        _fail_lacking(worker, format, f"has no {found['absent']}")
    if found["refused"]:
        _fail_refused(worker, format, found["refused"])
    for operands, product in found["products"].items():
        if product["mismatches"]:
            row, column, got, expected = product["first"]
            fail(
                f"{worker}: {product['mismatches']} of {product['elements']} elements of a product {operands} in "
                f"{_NAMES[format]} are wrong; the first, in row {row} and column {column}, is {got:g} and not "
                f"{expected:g}",
                why=f"a model that computes in {_NAMES[format]} would be trained on wrong numbers",
                fix=["update PyTorch: cuBLAS of CUDA 13.2 before 13.2.2 scales NVFP4 wrongly", _OR_REPLACE],
                action=_replace(worker),
            )


def _require_format(worker: Compute, format: str, by: str = PYTORCH) -> None:
    """Go on only where the device and the build have the format, by the rules of this owner."""
    if worker.compute_capability is None:
        if format not in _ON_THE_CPU:
            not_applicable(f"{worker}: the CPU has no {_NAMES[format]}")
        return
    met = [rule for rule in precision.rules(format, by) if rule.allows_gpu(worker.compute_capability)]
    if not met:
        capability = "{}.{}".format(*worker.compute_capability)
        not_applicable(
            f"{worker} has compute capability {capability}; {_NAMES[format]} needs {precision.describe(format)}"
        )
    cuda = worker.torch.cuda
    assert cuda, "a PyTorch that uses a GPU is built for CUDA"
    if not any(rule.allows_cuda(cuda) for rule in met):
        _fail_lacking(worker, format, f"is built for CUDA {cuda}, and {by} needs CUDA {met[0].cuda} or newer for it")


def _fail_lacking(worker: Compute, format: str, what: str) -> NoReturn:
    fail(
        f"{worker} has {_NAMES[format]}, but PyTorch {worker.torch.version} {what}",
        why=f"what computes in {_NAMES[format]} does not run, though the device could",
        fix="install a newer PyTorch that this driver runs, if you want to use it",
        links=["https://pytorch.org/get-started/locally/"],
        severity="warning",
    )


def _fail_refused(worker: Compute, format: str, text: str) -> NoReturn:
    if worker.is_rehearsal:
        not_applicable(f"{worker}: PyTorch {worker.torch.version} has no {_NAMES[format]} for the CPU: {text}")
    fail(
        f"{worker} has {_NAMES[format]}, but PyTorch {worker.torch.version} for CUDA {worker.torch.cuda} refuses to "
        f"multiply in it: {text}",
        why=f"what computes in {_NAMES[format]} does not run, though the device could",
        fix="install a newer PyTorch that this driver runs",
        severity="blocker" if format in _ESSENTIAL else "warning",
    )


def _replace(worker: Compute) -> Action:
    # No GPU took part in a rehearsal: there is none to replace.
    return Action.REPLACE_NODE if worker.gpu else Action.FIX_SOFTWARE


# --------------------------------------------------------------------------------- what is used where it is asked


@check(level="standard")
def tf32_is_used_when_allowed(worker: Compute) -> None:
    """Products of FP32 matrices use TF32 where it is allowed.

    Why: products of FP32 matrices take several times as long as they would in TF32.

    How it decides: a product with the identity matrix shows how many bits of each number were kept: where TF32 is
    allowed, those of TF32. All of FP32's is slower and warns; any other number of them blocks.

    Fix: unset NVIDIA_TF32_OVERRIDE.
    """
    found = _tf32(worker)
    seen = found["allowed"]
    _require_known_arithmetic(worker, "allowed", seen)
    if seen["in_fp32"]:
        fail(
            f"{worker} has TF32 and it is allowed, but {_share(seen, 'in_fp32')} of a product were computed in FP32",
            why="products of FP32 matrices take several times as long as they would in TF32",
            fix=_unset_override(found) or "install a newer PyTorch",
            severity="warning",
        )


@check(level="standard")
def tf32_is_not_used_unasked(worker: Compute) -> None:
    """Products of FP32 matrices are in FP32 where TF32 is not allowed.

    Why: what asks for FP32 gets 11 bits of each number instead of 24.

    How it decides: a product with the identity matrix shows how many bits of each number were kept: where TF32 is not
    allowed, all of them.

    Fix: unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE.
    """
    found = _tf32(worker)
    seen = found["forbidden"]
    _require_known_arithmetic(worker, "forbidden", seen)
    if seen["in_tf32"]:
        fail(
            f"{worker}: TF32 is forbidden, but {_share(seen, 'in_tf32')} of a product were computed in it",
            why="what asks for FP32 gets 11 bits of each number instead of 24",
            fix=_unset_override(found)
            or "look for what changes torch.backends at the start of Python, such as a sitecustomize module",
        )


def _unset_override(found: Mapping[str, Any]) -> str | None:
    if found["override"] is None:
        return None
    name, _, value = found["override"].partition("=")
    return f"$ unset {name}  # it is {value}"


def _tf32(worker: Compute) -> Mapping[str, Any]:
    _require_format(worker, "tf32")
    return worker.run("tf32:run", size=worker.size(rehearsal=64, standard=1024))


def _require_known_arithmetic(worker: Compute, tf32: str, seen: Mapping[str, int]) -> None:
    if seen["in_neither"]:
        fail(
            f"{worker}: with TF32 {tf32}, {_share(seen, 'in_neither')} of a product with the identity matrix are "
            f"neither what FP32 gives nor what TF32 gives",
            why="products of matrices are wrong",
            fix=["reinstall PyTorch", _OR_REPLACE],
            action=_replace(worker),
        )


def _share(seen: Mapping[str, int], key: str) -> str:
    return f"{seen[key]} of {sum(seen.values())} elements"


@check(level="standard")
@pytest.mark.parametrize("format", ["bf16", "fp16"], ids=str)
def autocast_uses_its_precisions(worker: Compute, format: str) -> None:
    """Autocast computes every operation in the precision of its class, and not only casts the result.

    Why: mixed precision that does not do what a recipe was tuned with is slower, or less accurate, and nothing says
    so.

    How it decides: each operation gets operands on which the precisions give different results, so that the result
    tells what it was computed in and not only what it was cast to.

    Fix: install PyTorch again, and look for what replaces its operators (sitecustomize, plugins).
    """
    _require_format(worker, format)
    operations = worker.run("autocast:run", format=format, seed=_SEED)["operations"]
    faults = [fault for name, seen in operations.items() if (fault := _fault_of(name, seen, _NAMES[format]))]
    if faults:
        fail(
            f"{worker}: under autocast to {_NAMES[format]}, {'; '.join(faults)}",
            why="mixed precision does not do what a recipe was tuned with: it is slower, or less accurate",
            fix=[
                "reinstall PyTorch",
                "or look for what replaces its functions at the start of Python, such as a sitecustomize module",
            ],
        )


def _fault_of(name: str, seen: Mapping[str, Any], format: str) -> str | None:
    if seen["dtype"] != seen["expected_dtype"]:
        return f"{name} gives {seen['dtype']} and not {seen['expected_dtype']}"
    if seen["right"] == seen["elements"]:
        return None
    if seen["kind"] != "lower":
        return f"{seen['wrong']} of {seen['elements']} elements of {name} are less accurate than FP32 is"
    if seen["wrong"]:
        return f"{name} computes {seen['wrong']} of {seen['elements']} elements in FP32 and casts them to {format}"
    wrong = seen["elements"] - seen["right"]
    return f"{wrong} of {seen['elements']} elements of {name} are wrong in any precision"


# ------------------------------------------------------------------------------------------------ right results


@check(level="standard")
@pytest.mark.parametrize("format", ["fp32", "tf32", "bf16", "fp16", "fp8"], ids=str)
def agrees_with_float64(worker: Compute, format: str) -> None:
    """Products agree with FP64 within the error bound of the format, and none is NaN or infinite.

    Why: a training on such numbers diverges, or learns what is not there.

    How it decides: products are compared with FP64, element by element, and none may be farther from it than the
    error bound that follows from the format and the number of terms.

    Fix: unset what changes the precision of products; otherwise have the GPU replaced.
    """
    if format != "fp32":  # which every device has
        _require_format(worker, format)
    size = worker.size(rehearsal=256, standard=1024)
    found = worker.run("float64_agreement:run", format=format, size=size, terms=_TERMS, seed=_SEED)
    if found["absent"] or found["refused"]:
        _leave_to_supports(worker, format, found["refused"])
    _require_within_bound(worker, f"product in {_NAMES[format]}", f"float64_error_{format}", found)


def _leave_to_supports(worker: Compute, format: str, refused: str | None) -> NoReturn:
    """End the check where ``supports`` says all there is to say of this format."""
    reason = f"{worker}: PyTorch {worker.torch.version} does not multiply in {_NAMES[format]}"
    if format in ("fp32", "tf32"):
        _fail_refused(worker, format, str(refused))  # of these it says nothing
    if format in _ESSENTIAL:
        wait_for(f"precision::supports[{worker.name}-{format}]", reason)
    not_applicable(reason)


def _require_within_bound(worker: Compute, what: str, measurement: str, found: Mapping[str, Any]) -> None:
    share = math.nan if found["largest_share"] is None else found["largest_share"]
    worker.measure(measurement, share, "1", bound=1.0)
    row, column, got, expected = found["worst"]
    place = f"in row {row} and column {column}"
    why = "a training on such numbers diverges, or learns what is not there"
    fix = ["reinstall PyTorch", _OR_REPLACE]
    if found["not_finite"]:
        fail(
            f"{worker}: {count(found['not_finite'], 'element')} of a {what} {_are(found['not_finite'])} NaN or "
            f"infinite; the first, {place}, is {got} and should be {expected:g}",
            why=why,
            fix=fix,
            action=_replace(worker),
        )
    if found["beyond"]:
        fail(
            f"{worker}: {count(found['beyond'], 'element')} of a {what} {_are(found['beyond'])} farther from FP64 "
            f"than the error bound, {found['bound']:.2g} of the value; the farthest, {place}, is {got:g} and should "
            f"be {expected:g}: {share:.3g} times the bound",
            why=why,
            fix=fix,
            action=_replace(worker),
        )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


@check(level="standard")
def grad_scaler_recovers(worker: Compute) -> None:
    """GradScaler skips a step with an infinite or NaN gradient, and takes the next one right.

    Why: one overflow in FP16, which every run has, would destroy the model or stop it from learning.

    How it decides: steps with sound, infinite and NaN gradients are taken in turn; parameters and scale after each
    have to be exactly those that follow from the rules of GradScaler.

    Fix: install PyTorch again.
    """
    steps = worker.run("grad_scaler:run", seed=_SEED)["steps"]
    # The first faulty one: those after it follow from it.
    fault = next((fault for number in range(len(steps)) if (fault := _fault_of_step(steps, number))), None)
    if fault:
        fail(
            f"{worker}: {fault}",
            why="one overflow in FP16, which every run has, would destroy the model or stop it from learning",
            fix=["reinstall PyTorch", _OR_REPLACE],
        )


def _fault_of_step(steps: Sequence[Mapping[str, Any]], number: int) -> str | None:
    step = steps[number]
    of_all = f"of {step['elements']} parameters"
    which = f"step {number + 1} of {len(steps)}"
    if step["kind"] != "sound" and step["wrong"]:
        return (
            f"{which} has a gradient that is {step['kind']} and was not skipped: it changed {step['wrong']} "
            f"{of_all}, {step['not_finite']} of them to NaN or infinity"
        )
    if step["wrong"]:
        return f"{which} has sound gradients, and {step['wrong']} {of_all} are not what it must make of them"
    if step["scale"] != step["expected_scale"]:
        gradients = "sound gradients" if step["kind"] == "sound" else f"a gradient that is {step['kind']}"
        return f"after {which}, with {gradients}, the scale is {step['scale']:g} and not {step['expected_scale']:g}"
    return None


# ------------------------------------------------------------------------------------------- Transformer Engine


@check(level="standard")
def transformer_engine_imports(worker: Compute) -> None:
    """Transformer Engine, where it is installed, imports, and CUDA works after it.

    Why: BioNeMo's recipes are built on Transformer Engine, which was often compiled for another PyTorch or CUDA.

    How it decides: the device's worker process imports it and computes on the GPU afterwards.

    Fix: build Transformer Engine for the PyTorch that is installed.
    """
    version = _require_transformer_engine()
    error = worker.run("te_fp8:imports")["error"]
    if error is None:
        return
    if worker.is_rehearsal and "libcuda.so" in error:
        not_applicable(f"{worker}: Transformer Engine does not import without the NVIDIA driver: {error}")
    fail(
        f"Transformer Engine {version} does not import in the worker of {worker}: {error}",
        why="it was compiled for another PyTorch or CUDA"
        if "undefined symbol" in error
        else "BioNeMo's recipes are built on it",
        fix=_rebuild(version),
        links=["https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/installation.html"],
    )


@check(level="standard")
@pytest.mark.parametrize("format", ["fp8", "fp8_block", "mxfp8", "nvfp4"], ids=str)
def transformer_engine_layer(worker: Compute, format: str) -> None:
    """A linear layer of Transformer Engine in this format agrees with FP64 within its error bound.

    Why: recipes that train in this format would not run, or would not do what they say.

    How it decides: a layer's output is held against FP64 within the error bound of the format; it must differ from
    what BF16 gives (else nothing was quantized), and its gradients must be finite and not all zero.

    Fix: update Transformer Engine, or build it for the PyTorch that is installed.
    """
    version = _require_transformer_engine()
    if worker.is_rehearsal:
        not_applicable(f"{worker}: Transformer Engine computes on GPUs only")
    _require_format(worker, format, TRANSFORMER_ENGINE)
    if worker.run("te_fp8:imports")["error"]:
        wait_for(f"precision::transformer_engine_imports[{worker.name}]", "Transformer Engine does not import")
    found = worker.run("te_fp8:run", format=format, size=256, terms=_TERMS, seed=_SEED)
    engine = f"Transformer Engine {version}"
    if found["absent"] or found["refused"]:
        fail(
            f"{worker} has {_NAMES[format]}, but {engine} "
            + (f"has no {found['absent']}" if found["absent"] else f"refuses it: {found['refused']}"),
            why=f"recipes that train in {_NAMES[format]} do not run, though the device could",
            fix=f'$ pip install --upgrade --no-build-isolation "{_TE}[pytorch]"',
            severity="warning",
        )
    _require_within_bound(worker, f"layer of {engine} in {_NAMES[format]}", f"te_float64_error_{format}", found)
    _require_quantized(worker, version, format, found)


def _rebuild(version: str) -> list[str]:
    # Without its dependencies: pip would replace PyTorch, too.
    how = "--no-build-isolation --no-deps --no-cache-dir --force-reinstall"
    return fixes.alternatives(
        f"$ pip install {how} {_TE}_torch=={version}  # builds it for this PyTorch",
        "build Transformer Engine from source in this environment",
    )


def _require_transformer_engine() -> str:
    version = packages.version(_TE)
    if version is None:
        not_applicable("Transformer Engine is not installed")
    return version


def _require_quantized(worker: Compute, version: str, format: str, found: Mapping[str, Any]) -> None:
    seen = None
    if found["as_unquantized"] == found["elements"]:
        seen = f"a layer in {_NAMES[format]} gives exactly what it gives in BF16: nothing was quantized"
    elif found["gradient_not_finite"]:
        seen = (
            f"{found['gradient_not_finite']} of {found['gradient_elements']} elements of the gradients of a layer in "
            f"{_NAMES[format]} are NaN or infinite"
        )
    elif found["gradient_zero"] == found["gradient_elements"]:
        seen = f"all gradients of a layer in {_NAMES[format]} are zero"
    if seen:
        fail(
            f"{worker}: with Transformer Engine {version}, {seen}",
            why=f"a recipe that trains in {_NAMES[format]} would not do what it says",
            fix=_rebuild(version),
        )
