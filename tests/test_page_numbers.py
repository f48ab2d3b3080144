"""How a page groups numbers, draws them and shows texts: pure functions."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pytest_bionemo.page import machine, numbers
from pytest_bionemo.page.drawing import Axis, strip
from pytest_bionemo.page.numbers import Matrix, Quantity
from pytest_bionemo.page.shell import LONGEST, number, shown, steps

Json = dict[str, Any]
LABELS = {f"GPU-{index}": f"gpu{index}" for index in range(8)}


def measured(name: str = "matmul", device: str | None = "GPU-0", value: Any = 700.0, **more: Any) -> Json:
    """An entry of the report's measurements."""
    blank = dict.fromkeys(("samples", "ci95", "bound", "reference", "peer_median", "baseline", "judgement"))
    return {"name": name, "value": value, "unit": "TFLOP/s", "device": device, **blank, **more}


def quantity(*entries: Json) -> Quantity:
    (one,) = numbers.quantities(entries, LABELS)
    return one


# ---- numbers


def test_a_quantity_holds_all_devices_under_their_short_names_and_the_worst_word() -> None:
    one = quantity(
        measured("matmul_bf16", "GPU-0", 700.0, bound=1000.0, peer_median=700.0, judgement="good"),
        measured("matmul_bf16", "GPU-1", 490.0, bound=1000.0, peer_median=700.0, judgement="low", ci95=[480, 500]),
        measured("matmul_bf16", None, 696.0, bound=1000.0, peer_median=700.0, judgement="good"),
    )
    assert (one.title, one.judgement, one.concerned) == ("matmul bf16", "low", "gpu1")
    assert [each.device for each in one.numbers] == ["gpu0", "gpu1", ""]
    assert one.shown == "490 to 700 TFLOP/s"
    assert one.numbers[1].shown_interval == "480 to 500 TFLOP/s"
    assert one.legend == [
        ("bound", "the bound", "1000 TFLOP/s", "49% to 70% of"),
        ("peer_median", "its peers", "700 TFLOP/s", "70% to 100% of"),
    ]


def test_times_are_many_times_a_bound_and_small_shares_keep_two_digits() -> None:
    one = quantity(
        measured("launch", value=2e-6, unit="s", bound=2e-8, reference=1e-6),
        measured("launch", "GPU-1", value=4e-6, unit="s", bound=2e-8, reference=1e-3),
    )
    assert one.shown == "2 to 4 µs"
    assert (
        quantity(measured(value=2e-6, unit="s", ci95=[1.9e-6, 2.1e-6])).numbers[0].shown_interval == "1.9 to 2.1 µs"
    )
    assert [share for *_, share in one.legend] == ["100 x to 200 x", "0.4% to 200% of"]


def test_one_name_of_a_check_and_of_tests_are_different_quantities() -> None:
    found = numbers.quantities(
        [
            measured(),
            measured(test="test_a.py::test_it[1]"),
            measured(test="test_a.py::test_it[2]"),
            measured(unit="s"),
        ],
        LABELS,
    )
    assert [(one.unit, one.test, len(one.numbers)) for one in found] == [
        ("TFLOP/s", "", 1),
        ("TFLOP/s", "test_a.py::test_it", 2),
        ("s", "", 1),
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, True, "12", [1], 10**400, -1e300])
def test_what_is_no_number_of_this_world_is_none_and_is_not_drawn(value: Any) -> None:
    one = quantity(measured(value=value, bound=value, ci95=[value, value]))
    assert (one.numbers[0].value, one.numbers[0].rulers, one.numbers[0].interval) == (None, {}, None)
    assert not one.has_ruler
    assert one.shown == "no number"
    assert quantity(measured(value=5.0, ci95=value)).numbers[0].interval is None


def test_what_devices_send_to_each_other_is_a_matrix_in_the_order_of_the_devices() -> None:
    pairs = [(source, target) for source in range(11) for target in range(11) if source != target]
    labels = {f"GPU-{index}": f"gpu{index}" for index in range(11)}
    entries = [
        measured(f"send_to_gpu{target}", f"GPU-{source}", 100.0 * (source + 1), unit="GB/s", judgement="good")
        for source, target in pairs
    ]
    left, matrix = numbers.split(numbers.quantities([measured(), *entries], labels))
    assert [one.name for one in left] == ["matmul"]
    assert isinstance(matrix, Matrix)
    assert matrix.devices == tuple(f"gpu{index}" for index in range(11))
    assert [place for place, row in enumerate(matrix.rows) if row[place] is None] == list(range(11))
    cell = matrix.rows[4][9]
    assert cell is not None
    assert (cell.value, cell.device, matrix.step(cell)) == (500.0, "gpu4", 5)
    assert matrix.fastest == 1100.0
    assert numbers.split(numbers.quantities([measured()], labels))[1] is None
    pair = [measured("send_to_gpu1", "GPU-0"), measured("send_to_gpu2", "GPU-0"), measured("send_to_gpu0", "GPU-1")]
    matrix = numbers.split(numbers.quantities(pair, labels))[1]
    assert matrix is not None
    assert [[one is not None for one in row] for row in matrix.rows] == [
        [False, True, True], [True, False, False], [False, False, False]
    ]  # fmt: skip


# ---- axes and drawings


@pytest.mark.parametrize(
    ("values", "is_logarithmic"),
    [([700.0, 989.0], False), ([2e-8, 5e-6], True), ([0.0, 989.0], False), ([-5.0, 3.0], False), ([0.0], False)],
)
def test_an_axis_holds_every_value_in_their_order_and_has_round_ticks_within(
    values: list[float], is_logarithmic: bool
) -> None:
    axis = Axis.over(values)
    assert axis.is_logarithmic is is_logarithmic
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    assert len(set(places)) == len(set(values))
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(axis.low <= tick <= axis.high for tick in ticks)
    if not is_logarithmic:
        assert axis.place(0.0) in [axis.place(tick) for tick in ticks]


@pytest.mark.parametrize("values", [[1e-149, 1e149], [-1e149, 1e149], [1e-150], [1.0, 31.0], [1e-12, 1e-12 + 1e-28]])
def test_no_numbers_are_too_large_too_small_or_too_near_for_an_axis(values: list[float]) -> None:
    axis = Axis.over(values)
    assert all(0 <= axis.place(value) <= 100 for value in values)
    assert len(axis.ticks()) <= 8
    drawn = strip(quantity(*(measured("x", f"GPU-{place}", value) for place, value in enumerate(values))))
    assert "nan" not in drawn.lower().replace("nano", "")


def test_a_drawing_has_a_mark_for_each_number_and_ruler_and_says_in_words_what_it_shows() -> None:
    one = quantity(
        measured("matmul", "GPU-0", 700.0, ci95=[690.0, 710.0], bound=1000.0, baseline=720.0, judgement="good"),
        measured("matmul", "GPU-1", 500.0, ci95=[490.0, 510.0], bound=1000.0, baseline=715.0, judgement="low"),
        measured("matmul", "GPU-2", 630.0, bound=1000.0, judgement="degraded"),
        measured("matmul", "GPU-3", None, bound=1000.0),
    )
    svg = ET.fromstring(str(strip(one)))
    marks = [(use.attrib["href"], use.attrib["x"], use.attrib["y"]) for use in svg.findall("use")]
    kinds = [kind.removeprefix("#k-") for kind, _, _ in marks]
    # One bound for all of them, and to each what it did before.
    assert sorted(kinds) == ["bad", "baseline", "baseline", "bound", "value", "warn"]
    assert len([line for line in svg.findall("line") if line.attrib["class"] == "ci"]) == 2
    by_kind = dict(zip(kinds, marks, strict=True))
    x = {kind: float(mark[1].removesuffix("%")) for kind, mark in by_kind.items()}
    assert x["bad"] < x["warn"] < x["value"] < x["baseline"] < x["bound"]
    assert by_kind["bad"][2] != by_kind["value"][2]
    names = [text.text for text in svg.findall("text") if text.attrib["class"] == "d"]
    assert names == ["gpu0", "gpu1", "gpu2"]
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == (
        "matmul on 4 devices: 500 to 700 TFLOP/s; the bound 1000 TFLOP/s, before 715 to 720 TFLOP/s; linear axis"
    )


def test_a_drawing_escapes_its_texts() -> None:
    name = '"/><script>alert(1)</script>\u202e\x1b[31m'
    svg = str(strip(quantity(measured(name, name, 1.0, unit=name, bound=2.0))))
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert "\x1b" not in svg
    root = ET.fromstring(svg)
    assert "<script>alert(1)</script>\\u202e\\x1b[31m" in root.attrib["aria-label"]
    assert {child.tag for child in root} == {"line", "use", "text"}


# ---- texts


def test_nothing_in_a_text_is_hidden_or_turns_it_round() -> None:
    assert shown("driver 580\n\tNVRM: Ümläut 日本") == "driver 580\n\tNVRM: Ümläut 日本"
    assert shown("a\x1b[31mb\x00c\x7f") == "a\\x1b[31mb\\x00c\\x7f"
    assert shown("\u202egnp.exe\u2066\u200b\ufeff") == "\\u202egnp.exe\\u2066\\u200b\\ufeff"
    assert shown("\ud800").encode() == b"\\ud800"
    assert shown("1\u00a0024\u2028x") == "1 024 x"


def test_a_long_text_is_cut_and_says_how_long_it_was() -> None:
    text = shown("x" * 1_000_000)
    assert text == "x" * LONGEST + "… (1,000,000 characters)"
    assert shown("x" * LONGEST) == "x" * LONGEST


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (6.123e2, "TFLOP/s", "612.3 TFLOP/s"),
        (2.5e11, "B", "250 GB"),
        (None, "s", "no number"),
        (math.nan, "s", "no number"),
        (10**400, "B", "no number"),
        ("\x1b12", "s", "\\x1b12"),
        (True, "s", "True"),
    ],
)
def test_a_number_is_shown_whatever_it_is(value: Any, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_commands_of_a_fix_that_follow_each_other_are_copied_as_one() -> None:
    assert steps(["load it:", "$ modprobe nvidia", "$ nvidia-smi", "or: $ reboot", "then wait"]) == [
        (False, "load it:"),
        (True, "modprobe nvidia\nnvidia-smi"),
        (False, "or: "),
        (True, "reboot"),
        (False, "then wait"),
    ]
    assert steps([]) == []
    assert steps(["$ modprobe nvidia", "", "$ nvidia-smi", " "]) == [(True, "modprobe nvidia\nnvidia-smi")]


def test_no_command_that_is_copied_is_cut() -> None:
    half = "x" * (LONGEST // 2)
    assert steps([f"$ {half}", f"$ {half}"]) == [(True, half), (True, half)]
    assert steps([f"$ {half}{half}x"]) == [(False, f"{half}{half}x")]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ([f"gpu{index}-bf16" for index in range(8)] + ["gpu0-fp16"], ["gpu0 to gpu7 bf16", "gpu0 fp16"]),
        (["gpu0", "gpu1"], ["gpu0, gpu1"]),
        (["gpu0", "gpu2", "gpu3"], ["gpu0, gpu2, gpu3"]),
        ([f"cpu{index}-32-true" for index in range(3)], ["cpu0 to cpu2 32-true"]),
        (["gpu0-mig1", "bionemo-scdl", "", "gpux"], ["gpu0 mig1", "bionemo-scdl", "gpux"]),
        (["gpu٣"], ["gpu٣"]),
    ],
)
def test_runs_of_devices_are_said_as_one(parameters: list[str], said: list[str]) -> None:
    assert list(machine.runs(parameters)) == said


def test_devices_and_slices_have_the_names_of_the_checks() -> None:
    gpu = {"index": 3, "uuid": "GPU-3", "mig_devices": [{"uuid": "MIG-0"}, {"uuid": "MIG-1"}]}
    found = machine.labels([gpu, {"index": 4, "uuid": None}])
    assert found == {"GPU-3": "gpu3", "MIG-0": "gpu3-mig0", "MIG-1": "gpu3-mig1", "gpu4": "gpu4"}
    assert not [name for name in found.values() if not re.fullmatch(r"gpu\d(-mig\d)?", name)]
