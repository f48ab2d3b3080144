"""The tables of facts: that the data are sourced, dated and physically possible, and how they are read."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_bionemo import facts
from pytest_bionemo.facts import FactsError, architectures, drivers, gpus, wheels
from pytest_bionemo.facts.gpus import GpuModel
from pytest_bionemo.facts.wheels import Wheel

FOLDER = Path(facts.__file__).parent
TABLES = ("drivers", "gpus", "packages", "wheels")
TAGS = {"doc", "src", "pypi", "iss", "ran", "mem", "secondary"}
GIB = 2**30


def rows(name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Every row of a table with its kind: the elements of arrays of tables, and single tables."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for kind, value in facts.load(name).items():
        if kind != "sources":  # the legend of source codes, not data
            found += [(kind, row) for row in (value if isinstance(value, list) else [value])]
    return found


def kind_rows(name: str, kind: str) -> Sequence[Mapping[str, Any]]:
    return [row for found, row in rows(name) if found == kind]


# --- the data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_source_date_and_tag(name: str) -> None:
    assert rows(name)
    for kind, row in rows(name):
        assert row["source"].strip(), (kind, row)
        assert row["tag"] in TAGS, (kind, row)
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 22), (kind, row)


@pytest.mark.parametrize("name", TABLES)
def test_every_tag_is_explained_at_the_top(name: str) -> None:
    header = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    explained = {line.split()[1] for line in header.splitlines() if line.startswith("#   ")}
    assert explained >= TAGS


@pytest.mark.parametrize(
    ("name", "kind", "keys"),
    [
        ("drivers", "family", ("cuda_major",)),
        ("drivers", "toolkit", ("cuda", "update")),
        ("drivers", "toolkit", ("driver",)),
        ("wheels", "release", ("torch", "index")),
        ("wheels", "channel", ("name", "from")),
        ("gpus", "gpu", ("name",)),
        ("packages", "package", ("name",)),
    ],
)
def test_no_row_appears_twice(name: str, kind: str, keys: tuple[str, ...]) -> None:
    identities = [tuple(row[key] for key in keys) for row in kind_rows(name, kind)]
    assert len(identities) > 1
    assert len(set(identities)) == len(identities)


def test_driver_families_are_ordered_and_meet() -> None:
    families = sorted(kind_rows("drivers", "family"), key=lambda row: int(row["cuda_major"]))
    for older, newer in pairwise(families):
        assert newer["cuda_major"] == older["cuda_major"] + 1
        assert drivers.is_older(older["minimum"], newer["minimum"])
        assert older["below"] == newer["minimum"]
    assert "below" not in families[-1]


def test_toolkit_drivers_rise_with_the_toolkit() -> None:
    in_order = sorted(kind_rows("drivers", "toolkit"), key=lambda row: (Version(row["cuda"]), row["update"]))
    for older, newer in pairwise(in_order):
        assert drivers.is_older(older["driver"], newer["driver"]), (older, newer)


def test_toolkit_drivers_lie_within_their_family() -> None:
    families = {row["cuda_major"]: row for row in kind_rows("drivers", "family")}
    for row in kind_rows("drivers", "toolkit"):
        family = families[Version(row["cuda"]).major]
        assert not drivers.is_older(row["driver"], family["minimum"]), row
        assert "below" not in family or drivers.is_older(row["driver"], family["below"]), row


def test_only_the_secondary_source_is_not_vendor_documentation() -> None:
    assert [row["cuda"] for row in kind_rows("drivers", "toolkit") if row["tag"] != "doc"] == ["13.3"]


def test_releases_name_the_channel_of_their_cuda() -> None:
    for wheel in wheels.releases():
        major, minor = Version(wheel.cuda).release[:2]
        assert wheel.channel == f"cu{major}{minor}", wheel
        assert drivers.family_minimum(wheel.cuda) is not None, wheel
        assert "3.12" in SpecifierSet(wheel.python), wheel


def test_cuda_on_pypi_never_falls_with_a_newer_torch() -> None:
    on_pypi = sorted((w for w in wheels.releases() if w.index == "pypi"), key=lambda w: Version(w.torch))
    assert len(on_pypi) == 10
    cudas = [Version(wheel.cuda) for wheel in on_pypi]
    assert cudas == sorted(cudas)


def test_every_release_has_exactly_one_channel_row() -> None:
    for wheel in wheels.releases():
        fitting = [row for row in kind_rows("wheels", "channel") if row["name"] == wheel.channel]
        assert len([row for row in fitting if wheels._in_range(wheel.torch, row)]) == 1, wheel


def test_ranges_of_one_channel_do_not_overlap() -> None:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in kind_rows("wheels", "channel"):
        by_name.setdefault(row["name"], []).append(row)
    for same in by_name.values():
        same.sort(key=lambda row: Version(row["from"]))
        for earlier, later in pairwise(same):
            assert Version(earlier["to"]) < Version(later["from"]), (earlier, later)


def test_recorded_says_whether_architectures_are_there() -> None:
    channels = kind_rows("wheels", "channel")
    assert {row["recorded"] for row in channels} == {True, False}
    for row in channels:
        assert row["recorded"] == ("architectures" in row), row
        listed = row.get("architectures", [])
        assert listed == sorted(set(listed), key=Version), row


# Tensor fp16 operations for each fp32 one, per multiprocessor and clock: a property of the architecture. A
# sparsity figure is twice too high and falls outside; two different boost clocks in one datasheet stay
# inside.
TENSOR_RATIO = {
    (7, 0): 8,
    (7, 5): 8,
    (8, 0): 16,
    (8, 6): 4,
    (8, 9): 4,
    (9, 0): 16,
    (10, 0): 32,
    (10, 3): 32,
    (12, 0): 4,
}

every_gpu = pytest.mark.parametrize("gpu", gpus.models(), ids=lambda gpu: gpu.name)


def test_the_gpu_table_is_complete() -> None:
    assert len(gpus.models()) == 27  # 24 rows of the collected table, three of them two products in one line
    assert {gpu.compute_capability for gpu in gpus.models()} == set(TENSOR_RATIO)
    assert {gpu.segment for gpu in gpus.models()} == {"datacenter", "workstation", "geforce"}
    assert {gpu.confidence for gpu in gpus.models()} == {"high", "medium", "low"}


@every_gpu
def test_peaks_are_dense(gpu: GpuModel) -> None:
    expected = TENSOR_RATIO[gpu.compute_capability] / (2 if gpu.half_rate else 1)
    assert 0.8 * expected <= gpu.fp16_tflops / gpu.fp32_tflops <= 1.15 * expected


@every_gpu
def test_formats_exist_where_the_architecture_has_them(gpu: GpuModel) -> None:
    assert (gpu.bf16_tflops is not None) == (gpu.compute_capability >= (8, 0))
    assert (gpu.tf32_tflops is not None) == (gpu.compute_capability >= (8, 0))
    assert (gpu.fp8_tflops is not None) == (gpu.compute_capability >= (8, 9))


@every_gpu
def test_peaks_of_the_formats_fit_each_other(gpu: GpuModel) -> None:
    if gpu.bf16_tflops is not None:
        assert gpu.bf16_tflops == gpu.fp16_tflops
        assert gpu.tf32_tflops == pytest.approx(gpu.bf16_tflops / 2, rel=0.03)
    if gpu.fp8_tflops is not None:
        assert gpu.fp8_tflops == pytest.approx(gpu.fp16_tflops * 2, rel=0.02)


@every_gpu
def test_bandwidth_is_plausible(gpu: GpuModel) -> None:
    # Operations per byte at peak: designs keep it within this band, and a slipped digit leaves it.
    assert 100 <= gpu.fp16_tflops * 1000 / gpu.bandwidth_gbs <= 450
    assert 300 <= gpu.bandwidth_gbs <= 8000


@every_gpu
def test_memory_and_links_are_plausible(gpu: GpuModel) -> None:
    assert gpu.memory_gb
    assert all(16 <= size <= 288 for size in gpu.memory_gb)
    assert list(gpu.memory_gb) == sorted(set(gpu.memory_gb))
    assert gpu.nvlink_gbs is None or 100 <= gpu.nvlink_gbs <= 1800
    assert gpu.nvlink_gbs is not None or not gpu.nvlink_bridge


@every_gpu
def test_source_codes_are_spelled_out(gpu: GpuModel) -> None:
    legend = facts.load("gpus")["sources"]
    codes = gpu.source.split(", ")
    assert set(codes) <= set(legend)
    assert gpu.tag in {legend[code]["tag"] for code in codes}


def test_every_source_code_is_used_and_explained() -> None:
    legend = facts.load("gpus")["sources"]
    assert {code for gpu in gpus.models() for code in gpu.source.split(", ")} == set(legend)
    assert all(entry["title"] and entry["tag"] in TAGS for entry in legend.values())


every_reference = pytest.mark.parametrize(
    ("model", "reference"),
    [(model, row) for row in kind_rows("gpus", "reference") for model in row["gpus"]],
    ids=lambda value: value if isinstance(value, str) else f"{value['quantity']}-{value['method']}",
)


def physical_bound(model: GpuModel, quantity: str) -> float | None:
    if quantity == "memory_bandwidth":
        return model.bandwidth_gbs
    if quantity in ("host_to_device", "device_to_host"):
        architecture = gpus.architecture(model.compute_capability)
        return model.host_link_gbs or (architecture.pcie_gbs if architecture else None)
    return model.tflops(quantity.removeprefix("matmul_"))


@every_reference
def test_every_reference_is_physically_possible(model: str, reference: Mapping[str, Any]) -> None:
    """Below 40 % of the bound it is a slipped digit: tables that nobody holds against physics have several."""
    row = next(gpu for gpu in gpus.models() if gpu.name == model)
    bound = physical_bound(row, reference["quantity"])
    assert bound, f"{model} has no {reference['quantity']}"
    assert 0.40 * bound <= reference["value"] <= bound
    assert reference["unit"] == ("TFLOP/s" if reference["quantity"].startswith("matmul_") else "GB/s")
    assert reference["method"] in ("MAMF", "fryer", "DCGM", "floor")


def test_no_reference_appears_twice() -> None:
    keys = ("quantity", "method", "value")
    found = [(model, *(row[key] for key in keys)) for row in kind_rows("gpus", "reference") for model in row["gpus"]]
    assert len(set(found)) == len(found) > 30


def test_references_are_read_lowest_first() -> None:
    found = gpus.references("GB200", "matmul_fp8")
    assert [(reference.value, reference.method) for reference in found] == [(3615.6, "MAMF"), (4300, "fryer")]
    assert found[0].torch == "2.10 dev, cu130"
    assert gpus.references("GB200", "matmul_fp32") == gpus.references("T4", "matmul_fp16") == ()


def test_every_gpu_has_an_architecture() -> None:
    rows = kind_rows("gpus", "architecture")
    assert len({row["compute_capability"] for row in rows}) == len(rows) == len(TENSOR_RATIO)
    for gpu in gpus.models():
        architecture = gpus.architecture(gpu.compute_capability)
        assert architecture, gpu.name
        assert {format for format in gpus.FORMATS if gpu.tflops(format)} == set(architecture.flop_per_clock)
    assert gpus.architecture((99, 0)) is None


@pytest.mark.parametrize("capability", TENSOR_RATIO)
def test_the_rates_of_an_architecture_fit_each_other(capability: tuple[int, int]) -> None:
    architecture = gpus.architecture(capability)
    assert architecture
    rate = architecture.flop_per_clock
    assert rate["fp16"] == TENSOR_RATIO[capability] * rate["fp32"]
    assert rate.get("bf16", rate["fp16"]) == rate["fp16"]
    assert rate.get("tf32", rate["fp16"] / 2) == rate["fp16"] / 2
    assert rate.get("fp8", rate["fp16"] * 2) == rate["fp16"] * 2


@pytest.mark.parametrize(
    ("name", "multiprocessors", "clock_hz"),
    [("A100 SXM 80GB", 108, 1.41e9), ("H100 SXM", 132, 1.83e9), ("T4", 40, 1.59e9), ("V100 SXM2", 80, 1.53e9),
     ("L40S", 142, 2.52e9), ("A10", 72, 1.695e9), ("RTX PRO 6000 Blackwell Workstation", 188, 2.617e9)],
)  # fmt: skip
def test_an_architecture_gives_the_peaks_of_its_gpus(name: str, multiprocessors: int, clock_hz: float) -> None:
    gpu = next(gpu for gpu in gpus.models() if gpu.name == name)
    architecture = gpus.architecture(gpu.compute_capability)
    assert architecture
    assert architecture.tflops("fp16", multiprocessors, clock_hz) == pytest.approx(gpu.fp16_tflops, rel=0.02)
    assert architecture.tflops("no format", multiprocessors, clock_hz) is None


@pytest.mark.parametrize("capability", TENSOR_RATIO)
def test_the_efficiency_of_an_architecture_is_one_that_was_measured(capability: tuple[int, int]) -> None:
    architecture = gpus.architecture(capability)
    assert architecture
    members = [gpu for gpu in gpus.models() if gpu.compute_capability == capability]
    for of, share in architecture.efficiency.items():
        # Nobody measured FP16 apart: its rate is that of BF16.
        quantity = "memory_bandwidth" if of == "memory" else f"matmul_{of.replace('fp16', 'bf16')}"
        measured = [
            reference.value / bound
            for gpu in members
            for reference in gpus.references(gpu.name, quantity)
            if (bound := physical_bound(gpu, quantity))
        ]
        assert min(measured) - 0.01 <= share <= max(measured) + 0.01, (of, measured)


def test_only_a_grace_is_reached_by_another_link_than_pcie() -> None:
    linked = {gpu.name for gpu in gpus.models() if gpu.host_link_gbs}
    assert linked == {"GH200 96GB", "GH200 144GB", "GB200", "GB300"}


def test_no_processor_does_what_the_bound_of_a_rehearsal_allows() -> None:
    processor = gpus.processor()
    # The fastest on sale: 192 cores at 5 GHz with AVX-512, 614 GB/s of memory.
    assert processor.tflops("fp32", 192) > 192 * 5e9 * 64 / 1e12
    assert processor.bandwidth_gbs(192) > 614
    assert set(processor.flop_per_clock) == set(gpus.FORMATS)


def test_geforce_and_a10g_are_the_half_rate_ones() -> None:
    assert {gpu.name for gpu in gpus.models() if gpu.half_rate} == {
        "A10G",
        "GeForce RTX 4090",
        "GeForce RTX 5090",
    }


@every_gpu
def test_every_match_entry_finds_its_own_row(gpu: GpuModel) -> None:
    for entry in gpu.match:
        for size in gpu.memory_gb:
            assert gpus.find(f"NVIDIA {entry}", int(size * 0.96 * GIB)) == gpu


# --- reading the tables -------------------------------------------------------------------------------------


def test_load_returns_the_parsed_table_once() -> None:
    table = facts.load("drivers")
    assert table["bionemo"]["minimum_driver"] == "560"
    assert facts.load("drivers") is table


def test_a_table_cannot_be_extended_by_a_reader() -> None:
    with pytest.raises(TypeError):
        facts.load("drivers")["new"] = 1  # type: ignore[index]


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:1000]), "is not valid TOML"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "binary": (lambda path: path.write_bytes(b'a = "\xff\xfe"'), "is not UTF-8 text (byte 5)"),
    "gone": (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
    "a folder": (replace_by_folder, "cannot be read (Is a directory)"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_one_line_that_names_the_file_and_the_way_out(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "drivers.toml"
    shutil.copy(FOLDER / "drivers.toml", path)
    assert facts._read(path) == facts.load("drivers")
    inflict, what = DAMAGE[damage]
    inflict(path)
    with pytest.raises(FactsError) as caught:
        facts._read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} {what}")
    assert message.endswith("reinstall pytest-bionemo")
    assert "\n" not in message


def test_an_unknown_table_is_an_error_too() -> None:
    with pytest.raises(FactsError, match=r"no_such_table\.toml cannot be read"):
        facts.load("no_such_table")


@pytest.fixture
def copied_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of all tables that ``facts`` reads from, in place of the installed ones."""
    folder = tmp_path / "facts"
    folder.mkdir()
    for path in FOLDER.glob("*.toml"):
        shutil.copy(path, folder)
    monkeypatch.setattr(facts, "_FOLDER", folder)
    facts.load.cache_clear()
    yield folder
    facts.load.cache_clear()


def test_load_all_accepts_what_is_shipped(copied_folder: Path) -> None:
    facts.load_all()
    assert facts.load.cache_info().currsize == len(list(copied_folder.glob("*.toml"))) >= len(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_load_all_misses_a_table_that_is_gone(name: str, copied_folder: Path) -> None:
    (copied_folder / f"{name}.toml").unlink()
    with pytest.raises(FactsError, match=rf"{name}\.toml cannot be read"):
        facts.load_all()


def test_load_all_reads_tables_that_it_was_never_told_of(copied_folder: Path) -> None:
    (copied_folder / "zz_new.toml").write_text("a = ", encoding="utf-8")
    with pytest.raises(FactsError, match=r"zz_new\.toml is not valid TOML"):
        facts.load_all()


def test_load_all_without_the_folder(tmp_path: Path, copied_folder: Path) -> None:
    shutil.rmtree(copied_folder)
    with pytest.raises(FactsError, match=r"changes\.toml cannot be read"):
        facts.load_all()


def test_importing_facts_loads_nothing_else() -> None:
    code = (
        "import sys; import pytest_bionemo; before = set(sys.modules); import pytest_bionemo.facts;"
        "new = set(sys.modules) - before;"
        "print(sorted(m for m in new if m.startswith(('pytest_bionemo', 'packaging', 'tomllib', 'tomli'))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "['pytest_bionemo.facts']"


# --- drivers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "than", "older"),
    [
        ("550.54.15", "550.144.03", True),  # as text it would be the other way round
        ("550.144.03", "550.54.15", False),
        ("580", "580.65.06", True),
        ("580.0", "580", False),
        ("580", "580", False),
        ("95.1", "580", True),
        ("580.95.05-open", "580.95.05", False),
        ("580.95.05 Release Build", "580.95.06", True),
    ],
)
def test_drivers_compare_as_versions(driver: str, than: str, older: bool) -> None:
    assert drivers.is_older(driver, than) is older


@pytest.mark.parametrize("text", ["", "N/A", "unknown driver", "550..3"])
def test_what_is_no_version_is_named(text: str) -> None:
    for call in (
        lambda: drivers.is_older(text, "580"),
        lambda: drivers.is_older("580", text),
        lambda: drivers.family_minimum(text),
        lambda: drivers.toolkit_driver(text),
        lambda: drivers.newest_family(text),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("cuda", "minimum"),
    [
        ("13.0", "580"),
        ("13.2.2", "580"),
        ("12.8.90", "525"),
        ("12", "525"),
        ("11.8", "450"),
        ("10.2", None),
        ("14.0", None),
    ],
)
def test_family_minimum(cuda: str, minimum: str | None) -> None:
    assert drivers.family_minimum(cuda) == minimum


@pytest.mark.parametrize(
    ("cuda", "driver"),
    [
        ("13.2", "595.45.04"),
        ("13.2.2", "595.45.04"),
        ("13.0", "580.65.06"),
        ("12.8", "570.26"),  # not 570.124.06, which is lower as text
        ("12.4", "550.54.14"),
        ("11.0", "450.51.05"),
        ("12.7", None),
        ("9.2", None),
    ],
)
def test_toolkit_driver(cuda: str, driver: str | None) -> None:
    assert drivers.toolkit_driver(cuda) == driver


@pytest.mark.parametrize(
    ("driver", "family"),
    [
        ("550.144.03", 12),
        ("580", 13),
        ("579.99", 12),
        ("525", 12),
        ("524.9", 11),
        ("610.43.02", 13),
        ("450", 11),
        ("400.1", None),
    ],
)
def test_newest_family(driver: str, family: int | None) -> None:
    assert drivers.newest_family(driver) == family


def test_bionemo_minimum_is_read_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drivers.bionemo_minimum() == "560"
    monkeypatch.setattr(drivers, "load", lambda name: {"bionemo": {"minimum_driver": f"{name} 1"}})
    assert drivers.bionemo_minimum() == "drivers 1"


# --- architectures ------------------------------------------------------------------------------------------

CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("arch_list", "capability", "entry"),
    [
        # a binary serves the same major version and a minor one that is not lower
        (CU130, (8, 9), "sm_86"),
        (CU130, (8, 6), "sm_86"),
        (CU130, (8, 0), "sm_80"),
        (CU130, (7, 5), "sm_75"),
        (CU130, (7, 0), None),
        (CU130, (6, 1), None),
        (CU130, (10, 3), "sm_100"),
        (CU130, (12, 1), "sm_120"),
        (CU126, (7, 0), "sm_70"),
        (CU126, (7, 2), "sm_70"),
        (CU126, (10, 0), None),
        (["sm_86"], (8, 0), None),
        (["sm_103"], (10, 0), None),
        # PTX serves every newer device, and only when no binary does
        (["sm_80", "compute_80"], (8, 6), "sm_80"),
        (["sm_80", "compute_86"], (8, 6), "sm_80"),
        (["sm_75", "compute_80"], (8, 9), "compute_80"),
        (["compute_70", "compute_80"], (9, 0), "compute_80"),
        (["compute_90"], (8, 9), None),
        (["compute_120"], (12, 0), "compute_120"),
        (["compute_90"], (12, 0), "compute_90"),
        # architecture specific: exactly that device
        (["sm_90a"], (9, 0), "sm_90a"),
        (["sm_90a"], (10, 0), None),
        (["sm_100a"], (10, 3), None),
        (["sm_90", "sm_90a"], (9, 0), "sm_90a"),
        (["sm_100", "sm_100a"], (10, 3), "sm_100"),
        (["compute_90a"], (9, 0), "compute_90a"),
        (["compute_90a"], (10, 0), None),
        # family specific: the same major version, for binaries and for PTX
        (["sm_100f"], (10, 0), "sm_100f"),
        (["sm_100f"], (10, 3), "sm_100f"),
        (["sm_103f"], (10, 0), None),
        (["sm_120f"], (12, 1), "sm_120f"),
        (["sm_120f"], (10, 0), None),
        (["compute_100f"], (12, 0), None),
        # what cannot be read is passed over
        (["gfx90a", "", "sm_", "sm_9x", "SM_90", "sm_90 ", "lto_90"], (9, 0), None),
        (["gfx90a", "sm_90"], (9, 0), "sm_90"),
        ([], (9, 0), None),
    ],
)
def test_match(arch_list: list[str], capability: tuple[int, int], entry: str | None) -> None:
    assert architectures.match(arch_list, capability) == entry
    assert architectures.match(arch_list[::-1], capability) == entry


@pytest.mark.parametrize(("capability", "name"), [("8.6", "sm_86"), ("12.0", "sm_120")])
def test_binary_name(capability: str, name: str) -> None:
    assert architectures.binary(capability) == name


@pytest.mark.parametrize("text", ["86", "8.6a", "sm_86", "8.10"])
def test_binary_name_of_something_else(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        architectures.binary(text)


# --- wheels -------------------------------------------------------------------------------------------------


def best(
    driver: str | None, capabilities: Sequence[tuple[int, int]], python: str = "3.11", machine: str = "x86_64"
) -> str | None:
    wheel = wheels.best_for(driver, capabilities, python, machine)
    return None if wheel is None else f"{wheel.torch} {wheel.channel} {wheel.index}"


@pytest.mark.parametrize(
    ("driver", "capabilities", "python", "expected"),
    [
        ("550.144.03", [(8, 6)], "3.11", "2.10.0 cu128 pypi"),
        ("550.144.03", [(12, 0)], "3.11", "2.10.0 cu128 pypi"),
        ("580.95.05", [(9, 0)], "3.11", "2.14.1 cu130 pypi"),
        ("580", [], "3.11", "2.14.1 cu130 pypi"),
        ("579", [], "3.11", "2.10.0 cu128 pypi"),
        ("610.43.02", [(10, 3), (12, 1), (8, 9)], "3.12.4", "2.14.1 cu130 pypi"),
        ("580.95.05", [(7, 0)], "3.11", "2.10.0 cu128 pypi"),
        ("580.95.05", [(9, 0), (7, 0)], "3.11", "2.10.0 cu128 pypi"),
        ("580.95.05", [(6, 1)], "3.11", "2.7.1 cu126 pypi"),
        ("550.144.03", [(8, 6)], "3.9", "2.8.0 cu128 pypi"),
        ("550.144.03", [(8, 6)], "3.13.0rc1", "2.10.0 cu128 pypi"),
        ("550.144.03", [(8, 6)], "3.8", None),
        ("580.95.05", [(6, 0), (12, 0)], "3.11", None),
        ("580.95.05", [(3, 5)], "3.11", None),
        ("470.42.01", [(8, 0)], "3.11", None),
        ("440.0", [], "3.11", None),
    ],
)
def test_best_for(driver: str, capabilities: list[tuple[int, int]], python: str, expected: str | None) -> None:
    assert best(driver, capabilities, python) == expected


def test_best_for_serves_every_gpu_that_is_in_the_table() -> None:
    for gpu in gpus.models():
        wheel = wheels.best_for("580.95.05", iter([gpu.compute_capability]), "3.12", "x86_64")
        assert wheel is not None, gpu
        assert wheel.covers(gpu.compute_capability), gpu


def test_unrecorded_architectures_are_never_recommended() -> None:
    newest = max(wheels.releases(), key=lambda wheel: Version(wheel.torch))
    assert newest.architectures is None
    assert best_of([newest], "610.43.02") is None


def best_of(among: Sequence[Wheel], driver: str, capabilities: Sequence[tuple[int, int]] = ()) -> Wheel | None:
    return wheels._best(among, wheels._Place("3.11", "x86_64", driver), capabilities)


@pytest.mark.parametrize(
    ("driver", "machine", "expected"),
    [
        ("580.95.05", "aarch64", "2.14.1 cu130 pypi"),
        ("550.144.03", "aarch64", None),  # those of CUDA 12 are for the CPU there
        ("550.144.03", "x86_64", "2.10.0 cu128 pypi"),
        (None, "aarch64", "2.14.1 cu130 pypi"),
        ("550.144.03-open", "x86_64", "2.10.0 cu128 pypi"),
    ],
)
def test_a_cpu_build_is_never_recommended(driver: str | None, machine: str, expected: str | None) -> None:
    assert best(driver, [(9, 0)], machine=machine) == expected


@pytest.mark.parametrize(
    ("torch", "index", "machine", "is_cuda"),
    [
        ("2.10.0", "pypi", "aarch64", False),
        ("2.11.0", "pypi", "aarch64", True),
        ("2.14", "pytorch", "aarch64", False),
        ("2.10.0", "pypi", "x86_64", True),
        ("2.14", "pytorch", "x86_64", True),
    ],
)
def test_which_builds_are_for_cuda(torch: str, index: str, machine: str, is_cuda: bool) -> None:
    assert wheels.is_cuda_build(wheel_like(torch=torch, index=index), machine) is is_cuda


def wheel_like(**changes: Any) -> Wheel:
    base: dict[str, Any] = {
        "torch": "2.10.0",
        "python": ">=3.10",
        "cuda": "12.8.90",
        "channel": "cu128",
        "index": "pypi",
        "cudnn": None,
        "nccl": None,
        "triton": None,
        "architectures": ("8.0",),
        "ptx": (),
    }
    return Wheel(**{**base, **changes})


def test_the_index_is_the_last_resort() -> None:
    on_pypi, newer_on_index = wheel_like(), wheel_like(torch="2.14", index="pytorch")
    for order in ([on_pypi, newer_on_index], [newer_on_index, on_pypi]):
        assert best_of(order, "550", [(8, 0)]) == on_pypi
    volta = wheel_like(torch="2.14", index="pytorch", architectures=("7.0", "8.0"))
    assert best_of([on_pypi, volta], "550", [(7, 0)]) == volta


def test_torch_versions_compare_as_versions() -> None:
    assert best_of([wheel_like(torch="2.9.1"), wheel_like()], "550") == wheel_like()


def test_ptx_is_no_reason_to_recommend_a_build() -> None:
    with_ptx = wheel_like(ptx=("8.0",))
    assert with_ptx.covers((8, 6))
    assert not with_ptx.covers((9, 0))


def test_an_unknown_cuda_family_is_never_recommended() -> None:
    assert best_of([wheel_like(cuda="14.0")], "999") is None


@pytest.mark.parametrize(("driver", "python"), [("no driver", "3.11"), ("580", "three")])
def test_best_for_names_what_is_no_version(driver: str, python: str) -> None:
    with pytest.raises(ValueError, match=r"no driver|three"):
        wheels.best_for(driver, [], python, "x86_64")


def test_releases_carry_what_the_table_says() -> None:
    by_torch = {(wheel.torch, wheel.index): wheel for wheel in wheels.releases()}
    ten = by_torch["2.10.0", "pypi"]
    assert (ten.cuda, ten.cudnn, ten.nccl, ten.triton) == ("12.8.90", "9.10.2.21", "2.27.5", "3.6.0")
    assert ten.architectures == ("7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
    assert by_torch["2.13.0", "pypi"].triton is None
    assert by_torch["2.11.0", "pypi"].ptx == ("12.0",)
    assert by_torch["2.12.1", "pypi"].ptx == ()
    assert by_torch["2.6.0", "pypi"].architectures is None
    assert (by_torch["2.14", "pytorch"].architectures or ())[:3] == ("5.0", "6.0", "7.0")


def test_an_unknown_channel_has_no_architectures() -> None:
    row = {"torch": "2.10.0", "python": ">=3.10", "cuda": "12.7", "channel": "cu127", "index": "pytorch"}
    assert wheels._wheel(row).architectures is None


@pytest.mark.parametrize(
    ("torch", "inside"),
    [("2.7.1", False), ("2.8", True), ("2.8.0", True), ("2.10.3", True), ("2.11.0", False)],
)
def test_both_ends_of_a_range_belong_to_it(torch: str, inside: bool) -> None:
    assert wheels._in_range(torch, {"from": "2.8", "to": "2.10"}) is inside
    assert wheels._in_range(torch, {"from": "2.8"}) is (torch != "2.7.1")


def test_install_from_pypi_is_a_command() -> None:
    assert wheels.install(wheel_like()) == '$ pip install "torch==2.10.*"'
    assert wheels.install(wheel_like(torch="2.7.1")) == '$ pip install "torch==2.7.*"'


@pytest.mark.parametrize(
    ("installed", "forced"),
    [(None, False), ("2.9.1", False), ("2.10.0+cu130", True), ("2.10.0a0+5228986c39.nv25.5", True)],
)
def test_what_pip_would_take_for_the_build_is_replaced_by_force(installed: str | None, forced: bool) -> None:
    assert ("--force-reinstall" in wheels.install(wheel_like(), installed)) is forced
    assert wheels.install(wheel_like(), is_broken=True) == '$ pip install --force-reinstall "torch==2.10.*"'
    assert ", with --force-reinstall (see" in wheels.install(wheel_like(index="pytorch"), is_broken=True)


def test_install_from_the_index_is_prose() -> None:
    (volta,) = (wheel for wheel in wheels.releases() if wheel.index == "pytorch")
    assert wheels.install(volta) == (
        "install torch 2.14 for CUDA 12.6 from the PyTorch wheel index, channel cu126 "
        "(see pytorch.org/get-started/previous-versions)"
    )


def test_wheel_platform() -> None:
    assert wheels.minimum_glibc() == "2.28"
    assert facts.load("wheels")["wheel_platform"]["policy"] == "manylinux_" + wheels.minimum_glibc().replace(".", "_")
    assert wheels.supported_machines() == ("x86_64", "aarch64")


# --- GPUs ---------------------------------------------------------------------------------------------------


def found(name: str, gib: float | None = None) -> str | None:
    gpu = gpus.find(name, None if gib is None else int(gib * GIB))
    return None if gpu is None else gpu.name


@pytest.mark.parametrize(
    ("device_name", "model"),
    [
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
        ("Tesla V100-PCIE-32GB", "V100 PCIe"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("A100-SXM-80GB", "A100 SXM 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("nvidia-h100-80gb-hbm3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("NVIDIA GH200 144G HBM3e", "GH200 144GB"),
        ("NVIDIA B200", "B200 HGX"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA B300 SXM6 AC", "B300 HGX"),
        ("NVIDIA GB300", "GB300"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "GeForce RTX 5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell Workstation"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server"),
    ],
)
def test_find_by_name(device_name: str, model: str) -> None:
    assert found(device_name) == model


@pytest.mark.parametrize(
    "device_name",
    [
        "NVIDIA L40",  # neither L4 nor L40S
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "MIG 1g.10gb",
        "NVIDIA A10-24Q",
        "NVIDIA A100-2-10C",
        "GRID A10",
        "NVIDIA H20",
        "NVIDIA H800",
        "NVIDIA A100X",
        "NVIDIA T4G",
        "Tesla V100S-PCIE-32GB",
        "NVIDIA GB300 WS",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA GeForce RTX 3090",
        "AMD Instinct MI300X",
        "",
        # one name for several models
        "NVIDIA A100",
        "NVIDIA A100-SXM4",
        "NVIDIA GH200",
        "NVIDIA H100",
    ],
)
def test_find_nothing_where_no_bounds_are_known_to_apply(device_name: str) -> None:
    assert found(device_name) is None


@pytest.mark.parametrize(
    ("device_name", "gib", "model"),
    [
        ("NVIDIA A100-SXM4", 39.4, "A100 SXM 40GB"),
        ("NVIDIA A100-SXM4", 79.2, "A100 SXM 80GB"),
        ("NVIDIA A100-PCIE", 39.4, "A100 PCIe 40GB"),
        ("NVIDIA A100-PCIE", 79.2, "A100 PCIe 80GB"),
        ("NVIDIA A100-SXM-64GB", 63.4, None),
        ("NVIDIA A100-SXM4-40GB", 79.2, None),
        ("NVIDIA GH200", 95.6, "GH200 96GB"),
        ("NVIDIA GH200", 143.4, "GH200 144GB"),
        ("Tesla V100-SXM2-16GB", 15.8, "V100 SXM2"),
        ("Tesla V100-SXM2-32GB", 31.7, "V100 SXM2"),
        ("Tesla T4", 14.6, "T4"),
        ("NVIDIA A10G", 22.1, "A10G"),
        ("NVIDIA H200", 139.8, "H200 SXM"),
        ("NVIDIA B200", 178.4, "B200 HGX"),
        ("NVIDIA B300 SXM6 AC", 268.6, "B300 HGX"),
        ("NVIDIA GB300", 251.0, None),
        ("NVIDIA H100 80GB HBM3", 9.8, None),
        ("NVIDIA H100 80GB HBM3", 0, None),
    ],
)
def test_memory_tells_products_apart(device_name: str, gib: float, model: str | None) -> None:
    assert found(device_name, gib) == model


def test_a_model_carries_its_row() -> None:
    gpu = gpus.find("NVIDIA H100 80GB HBM3")
    assert gpu is not None
    assert (gpu.fp32_tflops, gpu.tf32_tflops, gpu.bf16_tflops, gpu.fp8_tflops) == (67, 494.7, 989.4, 1979)
    assert (gpu.bandwidth_gbs, gpu.nvlink_gbs, gpu.nvlink_bridge) == (3350, 900, False)
    assert (gpu.compute_capability, gpu.segment, gpu.memory_gb) == ((9, 0), "datacenter", (80.0,))
    assert (gpu.confidence, gpu.tag) == ("high", "mem")


def test_rows_with_disagreeing_sources_hold_the_upper_bound() -> None:
    expected = {
        "A100 SXM 80GB": 2039,
        "A100 PCIe 80GB": 1940,
        "B200 HGX": 8000,
        "GH200 96GB": 4000,
        "GH200 144GB": 4900,
    }
    held = {gpu.name: gpu.bandwidth_gbs for gpu in gpus.models()}
    assert {name: held[name] for name in expected} == expected
    assert all("bandwidth" in (gpu.also or "") for gpu in gpus.models() if gpu.name in set(expected) - {"GH200 96GB"})
