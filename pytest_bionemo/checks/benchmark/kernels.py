"""Other kernels than products of matrices: Fourier transforms and solvers."""

from __future__ import annotations

from pytest_bionemo import rulers
from pytest_bionemo.checking import check, fail
from pytest_bionemo.checks.benchmark.shared import SEED, Quantity, judge, replacement
from pytest_bionemo.checks.benchmark.single_precision import require_fp32_where_asked
from pytest_bionemo.compute import Compute

_WRONG = "what this device computes is wrong"
_WRONG_FIX = ("reset the GPU or reboot the node, and run the check again", "if it stays, replace the node")


@check(level="standard", needs=("undisturbed",))
def transforms_at_full_speed(worker: Compute) -> None:
    """Fourier transforms are right, and as fast as on the other devices.

    Why: long convolutions (Evo2 and its kind) are Fourier transforms, and other kernels than products serve them.

    How it decides: a transform and its inverse have to give the input back within what rounding explains; their time
    is judged by the rulers below, where a slow one warns.

    Fix: look for throttling, other processes and low clocks; otherwise have the GPU replaced.
    """
    parameters = {
        "length": worker.size(rehearsal=1 << 16, standard=1 << 20),
        "side": worker.size(rehearsal=256, standard=2048),
        "budget_s": worker.size(rehearsal=0.2, standard=0.3),
        "seed": SEED,
    }
    peak = rulers.matmul_bound(worker, "fp32")
    first = worker.run("fourier:run", **parameters)
    if not first["error"] <= first["error_bound"]:
        fail(
            f"{worker}: a Fourier transform and its inverse change numbers by {first['error']:.2e} of their norm; "
            f"rounding explains at most {first['error_bound']:.2e}",
            why=_WRONG,
            fix=_WRONG_FIX,
            action=replacement(worker),
        )
    durations = [
        Quantity(f"fft_{name}", title, "s", (part,), False,
                 rulers.shortest(peak, first["least_flop"][part]), depends_on_host=True)
        for part, name, title in (("line", "1d", "a Fourier transform"), ("square", "2d", "one in two dimensions"))
    ]  # fmt: skip
    judge(worker, durations, "fourier:run", **parameters)


@check(level="standard", needs=("undisturbed",))
def solves_at_full_speed(worker: Compute) -> None:
    """Linear systems are solved right, and as fast as on the other devices.

    Why: solvers run on other kernels than products, and on the host's processor as well.

    How it decides: the inverse of each matrix has to be right within what rounding explains; its time is judged by
    the rulers below, where a slow one warns.

    Fix: look for throttling, other processes and low clocks; otherwise have the GPU replaced.
    """
    require_fp32_where_asked(worker)
    parameters = {
        "sizes": worker.size(rehearsal=[64, 128], standard=[512, 1024, 2048]),
        "budget_s": worker.size(rehearsal=0.2, standard=0.3),
        "seed": SEED,
    }
    peak = rulers.matmul_bound(worker, "fp32")
    first = worker.run("solver:run", **parameters)
    for size, residual in first["residuals"].items():
        if not residual <= first["residual_bounds"][size]:
            fail(
                f"{worker}: the inverse of a matrix of {size} rows misses by {residual:.2e}; rounding explains at "
                f"most {first['residual_bounds'][size]:.2e}",
                why=_WRONG,
                fix=_WRONG_FIX,
                action=replacement(worker),
            )
    durations = [
        Quantity(f"spd_inverse_{size}", f"inverting a matrix of {size} rows", "s",
                 ("seconds", size), False, rulers.shortest(peak, first["flop"][size]), depends_on_host=True)
        for size in first["flop"]
    ]  # fmt: skip
    judge(worker, durations, "solver:run", **parameters)
