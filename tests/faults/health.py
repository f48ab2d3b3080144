"""How the GPUs are: what the stand-in driver says of them, and what stands in the kernel's log."""

from __future__ import annotations

from dataclasses import replace

import pynvml

from conftest import Rig
from faults import Change, Fault, Twin, at, done_at
from faults.injections import both, machine
from standin import H100_MIG, MIB, A100_80x8, GB200x4, H100x1, L40Sx4, Node, RTX4090x1, T4x1

GIB = 1024 * MIB
LOST, NEEDS_RESET = 15, 16
INFOROM = 14
OLD_BINDING = "whom could not be asked"  # nvidia-ml-py 12.535 misreads the list of processes


@at("driver library")
def sick(**health: int | None) -> Change:
    """GPU 3 of the node says this of its health."""

    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = rig.node.with_health(3 if len(rig.node.gpus) > 3 else 0, **health)

    return inject


@at("driver library")
def changed(**changes: object) -> Change:
    """GPU 3 of the node is like this."""

    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = rig.node.with_gpu(3, **changes)

    return inject


@at("driver library")
def all_sick(**health: int | None) -> Change:
    """Every GPU of the node says this of its health."""

    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = rig.node.with_every_health(**health)

    return inject


@at("driver library")
def all_changed(**changes: object) -> Change:
    """Every GPU of the node is like this."""

    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = replace(rig.node, gpus=tuple(replace(gpu, **changes) for gpu in rig.node.gpus))  # type: ignore[arg-type]

    return inject


@at("driver library")
def failing(function: str, fault: str | int) -> Change:
    """This function fails for GPU 3."""

    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = rig.node.with_gpu_fault(3, function, fault)

    return inject


@at("driver library")
def counting(first: int, later: int) -> Change:
    """The driver says that there are so many GPUs, at first and later."""

    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = Node(gpus=rig.node.gpus, counts=(first, later))

    return inject


# What a kernel writes of a healthy machine.
BOOT = (
    "5,0,0,-;Linux version 6.8.0-1021-aws (buildd@lcy02) #23-Ubuntu SMP\n"
    " SUBSYSTEM=pci\n"
    "6,812,4012345,-;NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
    "4,813,4112345,-;nvidia-nvswitch0: SXid (PCI:0000:c4:00.0): 12028, Non-fatal, Link 32 egress PRIV error\n"
)


def kernel_says(*lines: str) -> Change:
    """Each a line of the kernel's log, from the second minute on."""
    records = [f"3,{900 + number},{60_000_000 * (number + 1)},-;{line}\n" for number, line in enumerate(lines)]
    return done_at("file")(lambda rig: rig.files.write("/dev/kmsg", BOOT + "".join(records)))


def xid(code: int, text: str = "pid=4321, name=python, ...", address: str = "0000:86:00") -> str:
    """As the driver writes it, by default of GPU 3."""
    return f"NVRM: Xid (PCI:{address}): {code}, {text}"


def recovery(action: str) -> str:
    return xid(154, f"GPU recovery action changed from 0x0 (None) to 0x2 ({action})")


@done_at("file")
def bare_metal(rig: Rig) -> None:
    """No container, whatever the tests run in."""
    for marker in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container"):
        rig.files.remove(marker)


QUIET_LOG = kernel_says(xid(13), xid(31), xid(43), xid(45), xid(63), xid(94))
SWITCH_FAILED = "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 22013, Fatal, Link 08 Minion Link DLREQ"
NO_THRESHOLDS = {"temperature_slowdown": None, "temperature_shutdown": None, "temperature_operating": None}
# A driver from before 565 does not say what it wants done: then the log is all there is.
OLDER = sick(recovery_action=None)

TWINS: dict[str, Twin] = {
    "health::can_be_read": Twin(
        {
            "a question hangs": Fault(
                failing("nvmlDeviceGetRemappedRows", "hang"),
                r"GPU 3 .*stopped answering.* 2 s, while asking GPU 3: nvmlDeviceGetRemappedRows",
                "xid",
                "REBOOT_NODE",
                "gpu3",
            ),
            "a question crashes": Fault(
                failing("nvmlDeviceGetNvLinkState", "crash"),
                "killed by SIGSEGV.* while asking GPU 3: nvmlDeviceGetNvLinkState",
                "reboot",
                "REBOOT_NODE",
                "gpu3",
            ),
            "lost": Fault(
                failing("nvmlDeviceGetTemperature", LOST),
                "GPU 3 .*nvmlDeviceGetTemperature says that the GPU is lost",
                "reboot",
                "REBOOT_NODE",
                "gpu3",
            ),
            "needs a reset": Fault(
                failing("nvmlDeviceGetPowerManagementLimit", NEEDS_RESET),
                "GPU 3 .*says that the GPU has to be reset",
                "--gpu-reset -i 3",
                "RESET_GPU",
                "gpu3",
            ),
        },
        parameter="gpu3",
        options=("--bionemo-timeout=2",),
    ),
    "health::count_is_stable": Twin(
        {
            "one gone": Fault(counting(8, 7), "counted 8 GPUs, and 7 a moment later", "nvrm", "REBOOT_NODE"),
            "one more": Fault(counting(8, 9), "counted 8 GPUs, and 9", "", "REBOOT_NODE"),
        }
    ),
    "health::needs_no_recovery": Twin(
        {
            "reset": Fault(
                sick(recovery_action=1),
                "wants that the GPU is reset",
                r"end every program on it \(on the host.*gpu-reset -i 3",
                "RESET_GPU",
                "gpu3",
            ),
            "reboot": Fault(sick(recovery_action=2), "machine is rebooted", "reboot", "REBOOT_NODE", "gpu3"),
            "peers": Fault(
                sick(recovery_action=3), "work between GPUs is ended$", "several GPUs together", "FREE_GPU", "gpu3"
            ),
            "drain": Fault(sick(recovery_action=4), "all work on the GPU is ended", "reset", "RESET_GPU", "gpu3"),
            "IMEX": Fault(sick(recovery_action=5), "IMEX", "IMEX service", "FIX_SOFTWARE", "gpu3"),
            "bus": Fault(sick(recovery_action=6), "over its bus", "reset", "RESET_GPU", "gpu3"),
            "system": Fault(sick(recovery_action=7), "whole system", "reboot", "REBOOT_NODE", "gpu3"),
        },
        parameter="gpu3",
    ),
    "health::has_no_memory_errors": Twin(
        {
            "since the driver was loaded": Fault(
                sick(ecc_volatile=2, ecc_aggregate=2),
                "2 memory errors could not be corrected since",
                "gpu-reset -i 3",
                "RESET_GPU",
                "gpu3",
            ),
            "too many in caches": Fault(
                sick(sram_threshold_exceeded=1), "SRAM threshold exceeded", "replaced", "REPLACE_NODE", "gpu3"
            ),
            "long ago": Fault(
                sick(ecc_aggregate=1), "1 memory error in its life", "nothing now", "NONE", "gpu3", "warning"
            ),
        },
        parameter="gpu3",
    ),
    "health::corrects_memory_errors": Twin(
        {"off": Fault(sick(ecc_mode=0), r"\(ECC\) is off", "-i 3 -e 1", "RESET_GPU", "gpu3")}, parameter="gpu3"
    ),
    "health::rows_are_remapped": Twin(
        {
            "pending": Fault(
                sick(row_remap_pending=1, rows_remapped_uncorrectable=1),
                r"waits to be remapped \(1 row remapped",
                "when it is next idle, .*gpu-reset -i 3",
                "RESET_GPU",
                "gpu3",
                "warning",
            ),
            "pending, by the driver's word as well": Fault(
                sick(row_remap_pending=1, rows_remapped_uncorrectable=1, recovery_action=1),
                r"waits to be remapped \(1 row remapped",
                "^reset the GPU",
                "RESET_GPU",
                "gpu3",
            ),
            "pending, where errors are not contained": Fault(
                both(machine(L40Sx4), sick(row_remap_pending=1, rows_remapped_uncorrectable=1)),
                "waits to be remapped",
                "gpu-reset -i 3",
                "RESET_GPU",
                "gpu3",
            ),
            "failed": Fault(
                sick(row_remap_failed=1, rows_remapped_correctable=3, rows_remapped_uncorrectable=5),
                r"could not be remapped \(8 rows",
                "replaced",
                "REPLACE_NODE",
                "gpu3",
            ),
        },
        # Rows that were remapped are as good as any.
        healthy=sick(rows_remapped_correctable=4),
        parameter="gpu3",
    ),
    "health::pages_are_retired": Twin(
        {
            "pending": Fault(
                both(machine(T4x1), sick(page_retirement_pending=1, pages_retired_single=2)),
                r"waits to be retired \(2 are\)",
                "^reboot",
                "REBOOT_NODE",
                "gpu0",
            ),
            "too many": Fault(
                both(machine(T4x1), sick(pages_retired_single=60, pages_retired_double=4)),
                "64 pages of its memory are retired, at most 63",
                "replaced",
                "REPLACE_NODE",
                "gpu0",
            ),
            "some": Fault(
                both(machine(T4x1), sick(pages_retired_double=1)),
                "1 page of its memory retired",
                "nothing now",
                "NONE",
                "gpu0",
                "warning",
            ),
        },
        healthy=both(machine(T4x1), sick(pages_retired_single=3)),
        parameter="gpu0",
    ),
    "health::has_all_its_memory": Twin(
        {
            "half of it, alone": Fault(
                machine(H100x1.with_gpu(0, memory_bytes=40960 * MIB)),
                r"it has 40\.0 GiB of memory, and its model is sold with 80 GB",
                "--gpu-reset -i 0",
                "REPLACE_NODE",
                "gpu0",
            ),
            "half of it, on every GPU": Fault(
                all_changed(memory_bytes=40960 * MIB),
                r"it has 40\.0 GiB of memory",
                "--gpu-reset",
                "REPLACE_NODE",
                "gpu7",
            ),
        },
        healthy=machine(T4x1),  # which reports 9 % less than it is sold with
        parameter="gpu0",
    ),
    "health::memory_is_free": Twin(
        {
            "of somebody else": Fault(
                changed(used_bytes=20 * GIB, processes=((1, 20 * GIB),)),
                rf"20\.0 GiB of its 79\.6 GiB are taken(, by process 1 \(20\.0 GiB\)|; by {OLD_BINDING})",
                "nvidia-smi -i 3|fuser",
                "FREE_GPU",
                "gpu3",
            ),
            "of nobody here": Fault(
                changed(used_bytes=20 * GIB),
                "(by no process that is visible here|by whom could not be asked)",
                "fuser",
                "FREE_GPU",
                "gpu3",
            ),
            "of whom cannot be asked": Fault(
                both(changed(used_bytes=20 * GIB), failing("nvmlDeviceGetComputeRunningProcesses_v3", 999)),
                "are taken; by whom could not be asked",
                "fuser",
                "FREE_GPU",
                "gpu3",
            ),
            "of what is drawn": Fault(
                changed(used_bytes=20 * GIB, graphics=((1, 20 * GIB),)),
                rf"by (process 1 \(20\.0 GiB\)|{OLD_BINDING})",
                "end them|fuser",
                "FREE_GPU",
                "gpu3",
            ),
            "of many": Fault(
                changed(used_bytes=20 * GIB, processes=((1, GIB), (2, None), (3, GIB), (4, GIB), (5, GIB))),
                rf"by (process 1 \(1\.0 GiB\), 2, 3 .* and 1 more|{OLD_BINDING})",
                "end them|fuser",
                "FREE_GPU",
                "gpu3",
            ),
            "on a workstation": Fault(
                machine(RTX4090x1.with_gpu(0, used_bytes=6 * GIB)), r"6\.0 GiB of its", "", "FREE_GPU", "gpu0"
            ),
        },
        # A desktop draws its windows, a monitor has its context.
        healthy=machine(RTX4090x1.with_gpu(0, used_bytes=2 * GIB, processes=((1, GIB),))),
        parameter="gpu0",
    ),
    "health::is_not_slowed_down": Twin(
        {
            "too hot": Fault(
                changed(clock_reasons=0x44), "too hot .*0x44", "others are not held down", "REPLACE_NODE", "gpu3"
            ),
            "all by their power supply": Fault(
                all_changed(clock_reasons=0x80),
                "hardware, with 7 more of 8: .*power brake",
                "not at fault",
                "NONE",
                "gpu0",
            ),
            "alone, by its power supply": Fault(
                machine(H100x1.with_gpu(0, clock_reasons=0x80)), "power brake", "power", "REPLACE_NODE", "gpu0"
            ),
            "a workstation's": Fault(
                machine(RTX4090x1.with_gpu(0, clock_reasons=0x80)), "power brake", "power", "NONE", "gpu0", "warning"
            ),
            "for no reason": Fault(
                changed(clock_reasons=0x8), "for no reason that it tells", "under load", "NONE", "gpu3", "warning"
            ),
            "power brake": Fault(changed(clock_reasons=0x81), "power brake", "power supply", "REPLACE_NODE", "gpu3"),
            "both": Fault(
                changed(clock_reasons=0xC8), "too hot, .*power brake.*, hardware slowdown", "", "REPLACE_NODE", "gpu3"
            ),
            "by the driver, for heat": Fault(
                changed(clock_reasons=0x21), "driver holds its clock down", "cooling", "NONE", "gpu3", "warning"
            ),
        },
        # Idle, at its power cap, at a clock that was set: all of that is normal.
        # So is a slowdown that passes: clocks are being changed. A reason that is not known yet is none.
        healthy=changed(clock_reasons=0x3C8, clock_reasons_later=0x1 | 0x2 | 0x4 | 0x10 | 0x100 | 0x1000),
        parameter="gpu3",
    ),
    "health::is_cool": Twin(
        {
            "slows down": Fault(
                sick(temperature=91), "91 degrees Celsius, and it slows down at 90", "cooling", "REPLACE_NODE", "gpu3"
            ),
            "no margin left": Fault(
                sick(temperature=88, temperature_margin=-3, **NO_THRESHOLDS),
                "88 degrees Celsius, a margin of -3 to what it is made for, and it slows down at -3",
                "cooling",
                "REPLACE_NODE",
                "gpu3",
            ),
            "no margin left, and no limit": Fault(
                sick(temperature=88, temperature_margin=-1, temperature_slowdown_tlimit=None, **NO_THRESHOLDS),
                "margin of -1 .*slows down below 0",
                "cooling",
                "REPLACE_NODE",
                "gpu3",
            ),
            "shuts down": Fault(
                sick(temperature=96), "96 degrees Celsius, and it shuts down at 95", "cooling", "REPLACE_NODE", "gpu3"
            ),
            "margin used up": Fault(
                sick(temperature=85, temperature_margin=0),
                "85 degrees Celsius, a margin of 0, made to work above 0",
                "cooling",
                "NONE",
                "gpu3",
                "warning",
            ),
            "hotter than it is made for": Fault(
                sick(temperature=88), "made to work below 87", "cooling", "NONE", "gpu3", "warning"
            ),
        },
        parameter="gpu3",
    ),
    "health::has_full_power": Twin(
        {"lowered": Fault(sick(power_limit=500000), "500 W, by default 700 W", "-i 3 -pl 700", parameter="gpu3")},
        parameter="gpu3",
    ),
    "health::has_full_clock": Twin(
        {
            "set low": Fault(sick(clock_application=1155), "set to 1155 MHz", "-i 3 -rac", parameter="gpu3"),
        },
        parameter="gpu3",
    ),
    "health::host_link_is_wide": Twin(
        {
            "half of a module": Fault(sick(pcie_width=8), "8 lanes of 16", "reboot", "REBOOT_NODE", "gpu3"),
            "a quarter of a card": Fault(
                both(machine(T4x1), sick(pcie_width=4)), "4 lanes of 16", "reseat", "REBOOT_NODE", "gpu0"
            ),
            "less than the others": Fault(
                both(machine(L40Sx4), sick(pcie_width=8)), "8 lanes of 16, 16 of other", "", "REBOOT_NODE", "gpu3"
            ),
            "an older generation": Fault(
                sick(pcie_generation_max=4), "generation 4, those of other GPUs here 5", "slot", "REBOOT_NODE", "gpu3"
            ),
        },
        # A slot of eight lanes is what many clouds have for a card of sixteen.
        healthy=machine(T4x1),
        parameter="gpu0",
    ),
    "health::host_link_is_clean": Twin(
        {
            "packets sent again": Fault(
                sick(pcie_replays=4_000_000_000), "4000000000 packets .*up to 8 a minute", "", "REBOOT_NODE", "gpu3"
            )
        },
        # Training the link has its price: some hundred are no rate yet when the machine has just been started.
        healthy=sick(pcie_replays=200),
        parameter="gpu3",
    ),
    "health::nvlinks_are_up": Twin(
        {
            "one down": Fault(
                sick(nvlinks_up=0x3FFDF), r"17 of 18 NVLinks are up \(down: 5\)", "fabric", "REBOOT_NODE", "gpu3"
            ),
            "all down": Fault(
                sick(nvlinks_up=0), r"0 of 18 .*down: 0, 1, 2, 3, 4, 5, \.\.\.\)", "", "REBOOT_NODE", "gpu3"
            ),
            "links not there": Fault(
                both(machine(A100_80x8), sick(nvlinks=11, nvlinks_up=0x7FF)), "11 of 12", "", "REBOOT_NODE", "gpu3"
            ),
            "one down, alone": Fault(
                machine(H100x1.with_health(0, nvlinks_up=0x1FFFF)), "17 of 18", "", "REBOOT_NODE", "gpu0", "warning"
            ),
        },
        parameter="gpu3",
    ),
    "health::nvlinks_are_clean": Twin(
        {
            "sent again": Fault(sick(nvlink_replays=1), "1 packet sent again", "nvlink -e -i 3", "NONE", "gpu3"),
            "trained again": Fault(sick(nvlink_recoveries=2), "trained again 2 times", "", "NONE", "gpu3"),
            "damaged": Fault(
                sick(nvlink_crc_errors=10**15), "damaged packets, more than 100 a second", "", "NONE", "gpu3"
            ),
        },
        # Some packets are always damaged, and found to be.
        healthy=sick(nvlink_crc_errors=70),
        parameter="gpu3",
    ),
    "health::fabric_is_ready": Twin(
        {
            "not begun": Fault(
                all_sick(fabric_state=1, nvlinks_up=0),
                "GPU 0 .*has not begun to join its NVSwitch fabric, and 7 more of 8 wait",
                "systemctl restart nvidia-fabricmanager",
                "FIX_SOFTWARE",
                "gpu0",
            ),
            "not ended": Fault(sick(fabric_state=2), "is still joining", "fabricmanager", "FIX_SOFTWARE", "gpu3"),
            "failed": Fault(
                sick(fabric_status=999), r"could not join .* \(NVML code 999\)", "", "REPLACE_NODE", "gpu3"
            ),
            "route unhealthy": Fault(
                sick(fabric_health=0x19A), r"a route is unhealthy \(health 0x19a\)", "", "REPLACE_NODE", "gpu3"
            ),
            "wrong set-up": Fault(
                both(machine(GB200x4), sick(fabric_health=0x54AA)), "no partition", "", "REPLACE_NODE", "gpu3"
            ),
            "degraded": Fault(
                sick(fabric_health=0x1A9), "bandwidth is degraded", "NVLink switches", "NONE", "gpu3", "warning"
            ),
            "unhealthy and degraded": Fault(
                sick(fabric_health=0x199), "a route is unhealthy, its bandwidth is", "", "REPLACE_NODE", "gpu3"
            ),
        },
        # Which of them a system knows differs: 0 is "not supported".
        healthy=all_sick(fabric_health=0),
        parameter="gpu3",
    ),
    "health::allows_compute": Twin(
        {
            "prohibited": Fault(sick(compute_mode=2), "PROHIBITED", "-i 3 -c DEFAULT", parameter="gpu3"),
            "exclusive": Fault(
                sick(compute_mode=3), "one process at a time", "-c DEFAULT", parameter="gpu3", severity="warning"
            ),
        },
        parameter="gpu3",
    ),
    "health::mig_mode_is_settled": Twin(
        {
            "on after a reset": Fault(
                sick(mig_pending=1), "MIG mode is off, and will be on", "-i 3 -mig 0", "RESET_GPU", "gpu3"
            ),
            "off after a reset": Fault(
                both(machine(H100_MIG), sick(mig_pending=0)), "is on, and will be off", "-mig 1", "RESET_GPU", "gpu0"
            ),
        },
        parameter="gpu3",
    ),
    "health::stays_initialised": Twin(
        {"off": Fault(sick(persistence=0), "persistence mode is off", "persistenced", parameter="gpu3")},
        parameter="gpu3",
    ),
    "health::inforom_is_valid": Twin(
        {"damaged": Fault(sick(inforom=INFOROM), "InfoROM is damaged", "support", "REPLACE_NODE", "gpu3")},
        parameter="gpu3",
    ),
    "health::gpus_are_alike": Twin(
        {
            "another model": Fault(
                changed(name="NVIDIA H200", memory_bytes=143771 * MIB),
                r"model NVIDIA H200 of GPU 3, NVIDIA H100 80GB HBM3 of the others; memory 140\.4 GiB of GPU 3",
                "replace",
                "REPLACE_NODE",
            ),
            "another firmware": Fault(
                changed(vbios="96.00.5E.00.01"),
                r"VBIOS\) 96\.00\.5E\.00\.01 of GPU 3, 96\.00\.99\.00\.01 of the others",
            ),
            "less memory": Fault(changed(memory_bytes=81000 * MIB), r"memory 79\.1 GiB of GPU 3"),
            "another limit": Fault(sick(power_limit=650000), "power limit 650 W of GPU 3, 700 W of the others"),
        }
    ),
    "health::has_no_xid": Twin(
        {
            "reset": Fault(
                both(OLDER, kernel_says(xid(48), xid(48))),
                r"Xid 48 \(a memory error could not be corrected \(double bit\)\) twice",
                r"gpu-reset -i 3(.|\n)*if that was done since then, reload the driver or reboot",
                "RESET_GPU",
                "gpu3",
            ),
            "between GPUs": Fault(
                both(OLDER, kernel_says(recovery("Drain P2P"))),
                "Xid 154",
                "several GPUs together",
                "FREE_GPU",
                "gpu3",
            ),
            "the strongest first": Fault(
                both(OLDER, kernel_says(xid(92), xid(13), xid(119), xid(79), xid(64))),
                "Xid 79 .*, Xid 119 .*, Xid 64 .* and 1 more",
                "reboot",
                "REBOOT_NODE",
                "gpu3",
            ),
            "power cable": Fault(kernel_says(xid(54)), "Xid 54 .*cable", "out of service", "REPLACE_NODE", "gpu3"),
            "told by the driver": Fault(
                both(OLDER, kernel_says(recovery("Node Reboot Required"))), "Xid 154", "reboot", "REBOOT_NODE", "gpu3"
            ),
            "over by the driver's word": Fault(
                kernel_says(xid(74)), "Xid 74 .*wants nothing done now", "nothing now", "NONE", "gpu3", "warning"
            ),
            "a sign": Fault(kernel_says(xid(92)), "Xid 92 .*frequent", "nothing now", "NONE", "gpu3", "warning"),
            "not on record": Fault(
                kernel_says(xid(899)), r"Xid 899 \(an error that is not on record\)", "", "NONE", "gpu3", "warning"
            ),
        },
        healthy=QUIET_LOG,
        parameter="gpu3",
    ),
    "health::no_gpu_is_lost": Twin(
        {
            "fell off the bus": Fault(
                both(bare_metal, kernel_says(xid(79, "GPU has fallen off the bus.", "0000:db:00"))),
                "does not show the GPU at 0000:db:00, .*Xid 79",
                "reboot",
                "REBOOT_NODE",
            )
        },
        healthy=both(bare_metal, QUIET_LOG),
    ),
    "health::no_switch_failed": Twin(
        {
            "fatal": Fault(
                both(all_sick(fabric_health=0), kernel_says(SWITCH_FAILED)),
                r"NVSwitch 0000:c1:00\.0: 1 fatal error .*SXid 22013$",
                "gpu-reset",
                "RESET_GPU",
            ),
            "fatal, and over": Fault(
                kernel_says(SWITCH_FAILED),
                "SXid 22013, and the fabric of every GPU is healthy now",
                "nothing now",
                "NONE",
                severity="warning",
            ),
        },
        healthy=QUIET_LOG,
    ),
}

# What nvidia-ml-py 12.535 has no question for: with it, these checks do not apply.
UNKNOWN_TO_OLD_BINDING = {
    "health::is_cool": ("no margin left", "no margin left, and no limit", "margin used up"),
    "health::has_no_memory_errors": ("too many in caches",),
    "health::no_switch_failed": ("fatal, and over",),
    "health::fabric_is_ready": ("route unhealthy", "wrong set-up", "degraded", "unhealthy and degraded"),
}
if not hasattr(pynvml, "nvmlDeviceGetGpuFabricInfoV"):
    for check, names in UNKNOWN_TO_OLD_BINDING.items():
        faults = {name: fault for name, fault in TWINS[check].faults.items() if name not in names}
        TWINS[check] = replace(TWINS[check], faults=faults)
