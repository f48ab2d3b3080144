"""The fixture measure in somebody else's suite: its numbers reach every output, and the report."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from conftest import REPORT, Rig
from pytest_bionemo import Report, document
from standin import H100x8

SUITE = """
import decimal
import math
import pytest

class Scalar:
    def __float__(self):
        return 2.5

@pytest.mark.parametrize("batch", [1, 8])
def test_step(measure, gpu_env, batch):
    measure("step_time", 0.1 * batch, "s", device=gpu_env.gpus[batch - 1])

def test_fine(measure):
    measure("rows", 12, "1")
    measure("exact", decimal.Decimal("0.5"), "GB")
    measure("of_an_array", Scalar(), "tokens/s", device="cpu")
    # By the name of a number of ours, from which targets are calculated.
    measure("esm2_650m_mfu", 0.99, "1", device="GPU-x")

def test_failing(measure):
    measure("loss", -1.5, "1")
    raise AssertionError("theirs")

def test_refused(measure):
    def refused(*arguments, **keywords):
        with pytest.raises(ValueError) as caught:
            measure(*arguments, **keywords)
        assert "\\n" not in str(caught.value)
        return str(caught.value)

    for bad in (math.nan, math.inf, -math.inf, "3.5", True, None, [1.0], 1j, object):
        assert refused("loss", bad, "1") == f"measure: loss: {bad!r} is not a finite number."
    for bad in ("", "Step time", "step-time", 3):
        assert refused(bad, 1, "s").startswith(f"measure: {bad!r} is no name of a number: use small letters")
    for bad in ("", "  ", None):
        assert refused("loss", 1, bad).startswith(f"measure: loss: {bad!r} is no unit:")
    for bad in ("", 0, ["GPU-x"]):
        assert refused("loss", 1, "1", device=bad).startswith(f"measure: loss: device={bad!r} is no Gpu of")
"""
READABLE = [
    ("test_step[1]", "step_time [s] on {0}", 0.1),
    ("test_step[8]", "step_time [s] on {7}", 0.8),
    ("test_fine", "rows [1]", 12.0),
    ("test_fine", "exact [GB]", 0.5),
    ("test_fine", "of_an_array [tokens/s] on cpu", 2.5),
    ("test_fine", "esm2_650m_mfu [1] on GPU-x", 0.99),
    ("test_failing", "loss [1]", -1.5),
]


def readable() -> list[tuple[str, str, float]]:
    uuids = [gpu.uuid for gpu in H100x8.gpus]
    return [(test, name.format(*uuids), value) for test, name, value in READABLE]


def in_xml(rig: Rig) -> list[tuple[str, str, float]]:
    root = ElementTree.parse(rig.project / "junit.xml").getroot()
    return [
        (case.attrib["name"], one.attrib["name"], float(one.attrib["value"]))
        for case in root.iter("testcase")
        for one in case.iter("property")
        if "[" in one.attrib["name"]
    ]


@pytest.mark.parametrize("arguments", [("-W", "error"), ("-n", "2")], ids=str)
def test_the_numbers_of_a_suite_are_in_its_outputs(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.node = H100x8
    rig.write("test_theirs.py", SUITE)
    outputs = ("--junitxml=junit.xml", "--json-report", "--json-report-file=json.json")
    run = rig.pytest("-q", "-p", "no:cacheprovider", *outputs, *arguments)
    assert "1 failed, 4 passed" in run.stdout, run.stdout
    assert sorted(in_xml(rig)) == sorted(readable())
    tests = json.loads((rig.project / "json.json").read_text())["tests"]
    found = [
        (test["nodeid"].partition("::")[2], name, value)
        for test in tests
        for one in test.get("user_properties", [])
        for name, value in one.items()
    ]
    assert sorted(found) == sorted(readable())
    assert not (rig.project / REPORT).exists()


@pytest.mark.parametrize("arguments", [("-v",), ("-n", "2")], ids=str)
def test_the_numbers_of_a_suite_are_in_the_report_of_a_validation(
    healthy_rig: Rig, arguments: tuple[str, ...]
) -> None:
    healthy_rig.write("tests/test_theirs.py", SUITE)
    healthy_rig.variables["COLUMNS"] = "120"
    run = healthy_rig.validate("tests", "-p", "no:cacheprovider", "--junitxml=junit.xml", *arguments)
    found = run.bionemo["measurements"]  # valid by the schema: see Run.report
    assert sorted((one["test"], one["value"], one["unit"]) for one in found) == sorted(
        (f"tests/test_theirs.py::{test}", value, name.partition("[")[2].partition("]")[0])
        for test, name, value in readable()
    )
    step = next(one for one in found if one["test"].endswith("test_step[8]"))
    rulers = dict.fromkeys(("samples", "ci95", "bound", "reference", "peer_median", "baseline", "judgement"))
    assert step == {
        "name": "step_time", "value": 0.8, "unit": "s", "device": H100x8.gpus[7].uuid,
        "test": "tests/test_theirs.py::test_step[8]", **rulers,
    }  # fmt: skip
    assert next(one for one in found if one["name"] == "rows")["device"] is None
    assert [one.to_json() for one in Report.load(run.report_path).measurements] == found
    assert sorted(in_xml(healthy_rig)) == sorted(readable())
    test = next(test for test in run.report["tests"] if test["nodeid"].endswith("test_failing"))
    assert test["user_properties"] == [{"loss [1]": -1.5}], "what is in the report is not there twice"
    shown = "step time: 100 ms to 800 ms (tests/test_theirs.py::test_step)"
    assert (shown in run.stdout) == ("-v" in arguments), run.stdout
    assert run.verdict == "READY_FOR_INSTALL"
    assert run.returncode == 1, "a test of theirs failed"


def test_what_a_suite_measures_says_nothing_of_a_target() -> None:
    """By whatever name: what a training is expected to deliver follows from what the checks have measured."""
    rulers = dict.fromkeys(("samples", "ci95", "reference", "peer_median", "baseline", "judgement"))
    numbers = [
        {"name": "esm2_650m_mfu", "value": 0.5, "unit": "1", "device": "GPU-x", "bound": None, **rulers},
        {"name": "matmul_bf16", "value": 500, "unit": "TFLOP/s", "device": "GPU-x", "bound": 1000, **rulers},
    ]
    target = {"name": "esm2-650m", "formats": ["bf16"], "flop_per_token": 4e9, "expected_tokens_per_s": None}

    def expected(**more: str) -> tuple[object, object]:
        (found,) = document.recorded([{**one, **more} for one in numbers], [target])["targets"]
        return len(found["measured"]), found["expected_tokens_per_s"]

    assert expected() == (1, 0.5 * 1000e12 / 4e9)
    assert expected(test="tests/test_theirs.py::test_fine") == (0, None)
