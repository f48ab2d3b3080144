"""One fault shows in several places, and is one finding."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import Rig
from faults import Change
from faults.health import bare_metal, kernel_says, recovery, xid
from faults.injections import both
from faults.platform import hyperpod
from standin import H100x8, Node, V100x4
from test_health import findings, torch_for

UNCORRECTED = ("ecc_volatile", "ecc_aggregate", "rows_remapped_uncorrectable", "row_remap_pending")


def whole(node: Node, *lines: str) -> Change:
    """The node, outside any container, with these lines in its kernel's log."""
    return both(bare_metal, lambda rig: setattr(rig, "node", node), kernel_says(*lines))


BUNDLES: dict[str, tuple[Change, str]] = {
    "a memory error": (
        whole(
            H100x8.with_health(3, recovery_action=1, **dict.fromkeys(UNCORRECTED, 1)),
            xid(48),
            xid(63),
            xid(94),
            recovery("GPU Reset Required"),
        ),
        "health::has_no_memory_errors[gpu3]",
    ),
    "a memory error under an older driver": (
        whole(H100x8.with_health(3, recovery_action=None, **dict.fromkeys(UNCORRECTED, 1)), xid(48), xid(95)),
        "health::has_no_memory_errors[gpu3]",
    ),
    "a memory error without a spare row": (
        whole(
            H100x8.with_health(3, recovery_action=1, row_remap_failed=1, ecc_volatile=1, ecc_aggregate=1),
            xid(48),
            xid(64),
        ),
        "health::rows_are_remapped[gpu3]",
    ),
    "a memory error for which the driver wants a reboot": (
        whole(H100x8.with_health(3, recovery_action=2, ecc_volatile=1, ecc_aggregate=1), xid(48)),
        "health::needs_no_recovery[gpu3]",
    ),
    "a memory error before Ampere": (
        whole(
            V100x4.with_health(3, ecc_volatile=1, pages_retired_double=1, page_retirement_pending=1), xid(48), xid(63)
        ),
        "health::pages_are_retired[gpu3]",
    ),
    "a GPU that is to be reset": (
        whole(H100x8.with_health(3, recovery_action=1), xid(119), recovery("GPU Reset Required")),
        "health::needs_no_recovery[gpu3]",
    ),
    "heat": (
        whole(H100x8.with_gpu(3, clock_reasons=0x68).with_health(3, temperature=91, temperature_margin=-4)),
        "health::is_cool[gpu3]",
    ),
    "no fabric manager": (
        whole(H100x8.with_every_health(fabric_state=1, nvlinks_up=0)),
        "health::fabric_is_ready[gpu0]",
    ),
    "a power supply": (
        whole(replace(H100x8, gpus=tuple(replace(gpu, clock_reasons=0x88) for gpu in H100x8.gpus))),
        "health::is_not_slowed_down[gpu0]",
    ),
    "half of the power supplies": (
        whole(
            replace(
                H100x8,
                gpus=tuple(replace(gpu, clock_reasons=0x88 * (index > 3)) for index, gpu in enumerate(H100x8.gpus)),
            )
        ),
        "health::is_not_slowed_down[gpu4]",
    ),
    "a lost GPU": (
        both(hyperpod(gpus=7), bare_metal, kernel_says(xid(79, address="0000:ff:00"))),
        "health::no_gpu_is_lost",
    ),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_one_fault_is_one_blocker(healthy_rig: Rig, name: str) -> None:
    change, blocker = BUNDLES[name]
    change(healthy_rig)
    if healthy_rig.node:
        healthy_rig.torch = torch_for(healthy_rig.node)
    run = healthy_rig.validate()
    assert run.blockers == [blocker], run.stdout
    assert {gap["waits_for"] for gap in run.bionemo["not_run"]} <= {f"bionemo/{blocker}"}
    assert findings(run) == [blocker]


def test_a_lost_gpu_is_not_counted_as_well(healthy_rig: Rig) -> None:
    whole(H100x8.without_gpu(3), xid(79))(healthy_rig)
    run = healthy_rig.validate("--bionemo-expect-gpus=8")
    assert run.blockers == ["health::no_gpu_is_lost"]
    assert run.gap("driver::expected_count")["waits_for"] == "bionemo/health::no_gpu_is_lost"
