"""History without a run: the store, what is a baseline of what, two runs compared, and the command."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from histories import GPUS, QUANTITIES, fortnight, noise, report, run, save
from pytest_bionemo import judging
from pytest_bionemo.baseline import Baseline, Circumstances, Earlier
from pytest_bionemo.compute import Compute, ComputeDevice
from pytest_bionemo.history import command
from pytest_bionemo.history.baselines import BaselineError, find
from pytest_bionemo.history.compare import Change, Number, compare, judge
from pytest_bionemo.history.store import VARIABLE, Store, StoreError, folder, load, machine_of, machine_with
from pytest_bionemo.judging import NODE, Word
from pytest_bionemo.options import Options
from pytest_bionemo.reports import Report

# ---- the store


def test_a_store_is_where_the_variables_say() -> None:
    home = str(Path.home())
    assert folder({VARIABLE: "/srv/runs", "XDG_STATE_HOME": "/state"}) == Path("/srv/runs")
    assert folder({"XDG_STATE_HOME": "/state"}) == Path("/state/pytest-bionemo")
    # By its specification, a relative path is invalid.
    for environ in ({}, {"XDG_STATE_HOME": "state"}, {"XDG_STATE_HOME": ""}, {VARIABLE: ""}):
        assert folder(environ) == Path(home, ".local/state/pytest-bionemo")


def test_a_machine_is_its_gpus_in_any_order_and_a_rehearsal_its_host() -> None:
    here = machine_of(run()["bionemo"])
    assert here == machine_with([*reversed(GPUS)])
    assert re.fullmatch(r"gpus-[0-9a-f]{12}", here)
    assert here != machine_of(run(uuids=GPUS[:7])["bionemo"])
    assert machine_of(run(device="cpu", hostname="../a b")["bionemo"]) == "..-a-b-cpu"
    for made in (run(uuids=()), run(device="cpu", hostname=None)):
        with pytest.raises(StoreError, match=r"^the report names no (GPU|host), whose history could be kept$"):
            machine_of(made["bionemo"])


def test_runs_are_numbered_and_never_written_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    first, second = store.save(run(), "a"), store.save(run(1), "a")
    assert [path.name for path in (first, second)] == ["0001_a.json", "0002_a.json"]
    # One that was deleted leaves its number free only if it was the last; a number that somebody is at is taken.
    first.unlink()
    (first.parent / ".0003.part").touch()
    (first.parent / "notes.txt").touch()
    assert store.save(run(2), "b").name == "0004_b.json"
    assert [stored.number for stored in store.runs(first.parent.name)] == [2, 4]
    assert load(second).document == run(1)
    for name in ("", "a/b", ".a", "a b", "é", "a" * 65, "a\n"):
        with pytest.raises(StoreError, match="is not a name for a run"):
            store.save(run(), name)
    with pytest.raises(StoreError, match="has not finished"):
        store.save(run() | {"exitcode": None}, "a")


def test_runs_that_end_at_the_same_time_get_a_number_each(tmp_path: Path) -> None:
    document = json.dumps(run())
    code = (
        "import json, sys; from pathlib import Path; from pytest_bionemo.history.store import Store\n"
        "document, store = json.loads(sys.stdin.read()), Store(Path(sys.argv[1]))\n"
        "for number in range(15): store.save(document, f'of-{sys.argv[2]}')"
    )

    def save_many(who: int) -> None:
        arguments = [sys.executable, "-c", code, str(tmp_path), str(who)]
        subprocess.run(arguments, input=document, text=True, check=True)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(save_many, range(4)))
    store = Store(tmp_path)
    runs = store.runs(store.machines()[0])
    assert [stored.number for stored in runs] == list(range(1, 61))
    assert Counter(stored.name for stored in runs) == {f"of-{who}": 15 for who in range(4)}
    assert store.readable(runs[0].machine)[1] == []
    assert [path.name for path in runs[0].path.parent.iterdir() if path.name.startswith(".")] == []


def test_what_cannot_be_stored_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota, or a disk that is full, may say so only when what was written is to be stored."""

    store = Store(tmp_path / "s")
    for call, number in (("fsync", errno.EDQUOT), ("rename", errno.ENOSYS)):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(StoreError, match=rf"{os.strerror(number)}\. Set {VARIABLE} to another folder"):
                store.save(run(), "a")
        assert [path for path in store.path.rglob("*") if path.is_file()] == []


def test_a_history_is_its_owners_alone_unless_its_folder_was_made_for_several(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        own, shared = tmp_path / "own", tmp_path / "shared"
        shared.mkdir(mode=0o777)
        shared.chmod(0o1777)
        for folder_, mode in ((own, 0o700), (shared, 0o1777)):
            place = Store(folder_).save(run(), "a").parent
            assert (folder_.stat().st_mode & 0o7777, place.stat().st_mode & 0o777) == (mode, 0o755)
    finally:
        os.umask(mask)


def test_every_run_that_is_kept_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.save(run(device="cpu", hostname=".hidden"), "a")
    shutil.copytree(first.parent, tmp_path / "\x1b[31m-cpu")
    assert store.machines() == [first.parent.name]
    (first.parent / "999999999_a.json").write_bytes(first.read_bytes())
    for number in (10**9, 10**9 + 1):
        assert store.save(run(device="cpu", hostname=".hidden"), "a").name == f"{number}_a.json"
    assert [stored.number for stored in store.runs(first.parent.name)] == [1, 999999999, 10**9, 10**9 + 1]


# ---- what is a baseline of what


def circumstances(**changes: Any) -> Circumstances:
    return Circumstances.of(run(**changes)["bionemo"])


def baseline(now: Circumstances, **changes: Any) -> Baseline:
    return Baseline.of(run(**changes), "before.json", now)


def test_a_number_is_compared_with_that_of_the_same_device_alone() -> None:
    now = circumstances()
    whole = baseline(now)
    assert len(whole.numbers) == len(GPUS) * len(QUANTITIES)
    found = whole.find("memory_copy", "GB/s", GPUS[3])
    assert found == Earlier(*next(
        (entry["value"], tuple(entry["ci95"])) for entry in run()["bionemo"]["measurements"]
        if (entry["name"], entry["device"]) == ("memory_copy", GPUS[3])
    ))  # fmt: skip
    assert whole.find("memory_copy", "GB/s", "GPU-other") is whole.find("memory_copy", "s", GPUS[3]) is None

    one_replaced = (*GPUS[:7], "GPU-new")
    in_part = baseline(circumstances(uuids=one_replaced))
    assert in_part.find("memory_copy", "GB/s", "GPU-new") is None
    differences = list(in_part.circumstances.differences(circumstances(uuids=one_replaced, driver="580.95.05")))
    assert differences == [
        "driver: 580.65.06 before, 580.95.05 now",
        f"no longer here: {GPUS[7]}",
        "not here before: GPU-new",
    ]


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        ({"level": "full"}, {}, "it is of level full, and this one of level standard, which measures other sizes"),
        ({"device": "cpu"}, {}, "it is a rehearsal on the CPU, and this one is a run on GPUs"),
        ({"uuids": ("GPU-x",)}, {}, "it is of another machine: of GPU-x, and this one has GPU-00000000-4f0c-11ef"),
        ({}, {"uuids": ()}, "it is of another machine: "),
        ({"device": "cpu"}, {"device": "cpu", "hostname": "b"}, "it is of the host dgx-07, and this is b"),
        ({"device": "cpu", "uuids": ("a", "b")}, {"device": "cpu", "uuids": ("a",)},
         "it pretends 2 devices, and this one 1: they share the cores"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_compared_says_why_and_gives_no_number(before: Any, now: Any, why: str) -> None:
    found = baseline(circumstances(**now), **before)
    assert found.refused.startswith(why)
    assert found.numbers == {}


def test_numbers_that_were_slow_broken_or_of_somebodys_test_are_no_baseline() -> None:
    made = run(uuids=GPUS[:1])
    entries = made["bionemo"]["measurements"]
    entries += [{**entries[0], "name": f"odd{value}", "value": value} for value in (0, -5.0, 5e-324, True)]
    for entry, changes in zip(
        entries,
        ({"judgement": "low"}, {"judgement": "degraded"}, {"judgement": "untrusted"}, {"value": None},
         {"value": 1e999}, {"test": "t.py::t"}, {"ci95": None}, {"ci95": [1e999, 2.0]}),
        strict=False,
    ):  # fmt: skip
        entry.update(changes)
    found = Baseline.of(made, "b", circumstances(uuids=GPUS[:1]))
    assert [(name, number.ci95 is None) for (name, _, _), number in found.numbers.items()] == [
        ("spd_inverse_128", True), ("esm2_650m_step", True), ("esm2_650m_tokens", False),
    ]  # fmt: skip


def mig(run_: Any, *uuids: str) -> Any:
    run_["bionemo"]["gpus"][0]["mig_devices"] = [
        {"uuid": uuid, "name": "1g.10gb", "memory_bytes": 10**10} for uuid in uuids
    ]
    return run_


TOGETHER = ("collective_all_reduce_bus", "node_all_reduce_bus", "node_to_node", "send_to_gpu1", "training_8m_tokens")
JOB: Any = {**dict.fromkeys(("launcher", "id", "task", "tasks", "node", "node_list")), "node_rank": 0, "hosts": []}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"job": {**JOB, "nodes": 2}}, "nodes of the job: 1 before, 2 now"),
        ({"uuids": (GPUS[1], GPUS[0], *GPUS[2:])},
         f"the GPUs are counted in another order: {GPUS[0]}, {GPUS[1]} and 6 more before, {GPUS[1]}, {GPUS[0]} and 6 "
         "more now"),
        ({"uuids": (*GPUS[:7], "GPU-new")}, f"no longer here: {GPUS[7]}"),
        ({"variables": {"CUDA_VISIBLE_DEVICES": "1,0"}}, "CUDA_VISIBLE_DEVICES: not set before, 1,0 now"),
        ({"slices": ("MIG-a",)}, "MIG slices: none before, MIG-a now"),
    ],
)  # fmt: skip
def test_what_devices_measure_together_is_of_the_same_devices(changes: Any, difference: str) -> None:
    """What GPU 0 sends to gpu1 goes elsewhere once another GPU is gpu1, and eight GPUs reduce as no four do."""
    made = run()
    for entry, name in zip(made["bionemo"]["measurements"], (*TOGETHER, "training_step_alone"), strict=False):
        entry |= {"name": name, "unit": "GB/s"}
    before = Report.of(made)
    slices = changes.get("slices", ())
    after = mig(copy.deepcopy(made), *slices)
    other = mig(run(**{name: value for name, value in changes.items() if name != "slices"}), *slices)
    after["bionemo"] |= {key: other["bionemo"][key] for key in ("environment", "gpus")}

    same = Baseline.of(made, "b", Circumstances.of(made["bionemo"]))
    assert {*TOGETHER, "training_step_alone"} <= {name for name, _, _ in same.numbers}
    now = Circumstances.of(after["bionemo"])
    found = Baseline.of(made, "b", now)
    assert (found.refused, difference in found.circumstances.differences(now)) == ("", True)
    compared = compare(before, Report.of(after)).numbers
    for names in ({name for name, _, _ in found.numbers}, {one.name for one in compared}):
        assert names.isdisjoint(TOGETHER)
        assert {"training_step_alone", "memory_copy"} <= names
    assert set(TOGETHER) <= {one.name for one in compare(before, before).numbers}


def test_a_long_list_of_visible_devices_is_compared_whole() -> None:
    first, second = ({"CUDA_VISIBLE_DEVICES": ",".join(uuids)} for uuids in (GPUS, (*GPUS[:7], GPUS[0])))
    now = circumstances(variables=first)
    made = run(variables=first)
    for found in (Circumstances.of(made["bionemo"]), Circumstances.from_json(json.loads(json.dumps(asdict(now))))):
        assert found == now == replace(now, visible=first["CUDA_VISIBLE_DEVICES"])
    (said,) = circumstances(variables=second).differences(now)
    assert said.startswith("CUDA_VISIBLE_DEVICES: GPU-0")
    assert len(said) < 200


def test_a_gpu_without_a_uuid_is_compared_with_none() -> None:
    made = run(uuids=("GPU-a", "gpu1"))
    made["bionemo"]["gpus"][1]["uuid"] = None
    found = Baseline.of(made, "b", Circumstances.of(made["bionemo"]))
    assert {device for _, _, device in found.numbers} == {"GPU-a"}


@pytest.mark.parametrize(
    ("driver", "word"), [("580.65.06", Word.LOW), ("580.95.05", Word.DEGRADED)], ids=["the same", "another driver"]
)
def test_what_another_driver_may_have_slowed_down_takes_no_gpu_out_of_service(driver: str, word: Word) -> None:
    """A finding that is low blocks, and has the node replaced; one that is degraded warns."""
    earlier = Baseline.of(run(), "b", circumstances(driver=driver))
    options = Options(True, "standard", "cuda", "install", "r.json", 60.0, None)
    device = ComputeDevice("gpu0", GPUS[0], cast(Any, object()))
    compute = Compute(device, cast(Any, None), cast(Any, None), options, [], earlier)
    found = compute.earlier("memory_copy", "GB/s")
    assert found
    rulers = compute.earlier_rulers("memory_copy", "GB/s")
    for share in (0.7, 0.01):
        judgement = judging.judge(share * found.value, higher_is_better=True, **rulers)
        assert (judgement.word, judgement.because) == (word, f"{share:.2f} x its own earlier value")
    assert compute.earlier_rulers("fft_2d", "GB/s") == {}


def test_what_a_baseline_says_of_itself_steers_no_terminal_and_is_short() -> None:
    made = run(driver="\x1b[31m\n580" + 10**6 * "x")
    made["bionemo"] |= {"started": "2026\x1b[2J", "level": "\u202elevel"}
    made["bionemo"]["environment"]["job"] = {**JOB, "nodes": "4"}
    found = Baseline.of(made, "a\x1b.json", circumstances())
    said = [found.describe(), found.refused, *found.circumstances.differences(circumstances())]
    assert all(text.isprintable() and len(text) < 400 for text in said), said
    assert "nodes of the job: 4 before, 1 now" in said


def test_last_is_the_newest_whole_run_of_the_level_in_which_nothing_was_slow(tmp_path: Path) -> None:
    store, environ = Store(tmp_path), {VARIABLE: str(tmp_path)}
    slow, nothing, interrupted, forged = run(2), run(3), run(4) | {"exitcode": 2}, run(5, uuids=("GPU-other",))
    slow["bionemo"]["measurements"][0]["judgement"] = "degraded"
    nothing["bionemo"]["measurements"] = []

    def last(level: str = "standard") -> Baseline:
        return find("last", tmp_path, circumstances(level=level), environ)

    place = store.save(run(0, level="full"), "full").parent
    assert last().refused == "no run of level standard of this machine is kept there"
    save(place / "0002_forged.json", forged)
    assert last().refused == "no run of level standard of this machine is kept there"
    assert ["0002_forged.json: it is of another machine" in line for line in last().skipped] == [True]
    store.save(nothing, "nothing")
    assert last().refused == "it holds no number that could be compared"
    store.save(slow, "slow")
    assert (last().name, last().refused) == ("0004_slow.json", ""), "better than nothing: its other numbers are sound"
    store.save(interrupted, "interrupted")
    assert last().name == "0005_interrupted.json"
    store.save(run(1), "sound")
    for number, made in enumerate((slow, nothing, interrupted, forged, run(6) | {"exitcode": None}), 7):
        save(place / f"{number:04d}_x.json", made)
    (place / "0012_x.json").write_text("{")
    assert (last().name, len(last().numbers)) == ("0006_sound.json", 72)
    skipped = [line.rpartition("/")[2].partition(":")[0] for line in last().skipped]
    assert skipped == ["0012_x.json", "0011_x.json", "0010_x.json"]
    assert last("full").name == "0001_full.json"


def test_a_baseline_is_a_report_a_folder_or_the_last_run(tmp_path: Path) -> None:
    store, now = Store(tmp_path / "store"), circumstances()
    environ = {VARIABLE: str(store.path)}
    absent = find("last", tmp_path, now, environ)
    assert (absent.refused, absent.started) == ("no run of level standard of this machine is kept there", "")
    kept = store.save(run(), "nightly")
    save(tmp_path / "report.json", run())
    for name in ("last", "report.json", str(kept), "store", str(kept.parent)):
        found = find(name, tmp_path, now, environ)
        assert (len(found.numbers), found.refused) == (72, ""), name
    assert found.describe() == "0001_nightly.json of 2026-11-02"
    assert (
        find("last", tmp_path, circumstances(uuids=()), environ).refused
        == "no run of a machine without GPUs is kept there"
    )

    odd = run()
    odd["bionemo"]["checks"] = [{"id": "x"}]
    save(tmp_path / "odd.json", odd)
    save(tmp_path / "begun.json", run() | {"exitcode": None})
    save(tmp_path / "job.json", run(job={**JOB, "nodes": "many"}))
    save(tmp_path / "list.json", [1])  # type: ignore[arg-type]
    (tmp_path / "empty.json").touch()
    os.mkfifo(tmp_path / "pipe.json")
    for name, said in (
        ("none.json", "cannot be read: No such file"), ("empty.json", "is no JSON: empty"),
        ("list.json", "not a report"), ("odd.json", "is damaged"),
        ("job.json", r"job\.json: the report is damaged \(ValueError: "), ("begun.json", "its run has not finished"),
        ("pipe.json", "is no regular file"), ("a\0b", "null"), ("~nobody-of-this-name/r", "home"),
    ):  # fmt: skip
        with pytest.raises(BaselineError, match=said) as caught:
            find(name, tmp_path, now, environ)
        assert "\n" not in str(caught.value)


# ---- better, same, worse


@pytest.mark.parametrize(
    ("before", "after", "rate", "duration"),
    [
        ((100, 99, 101), (80, 79, 81), Change.WORSE, Change.BETTER),
        ((100, 99, 101), (125, 124, 126), Change.BETTER, Change.WORSE),
        ((100, 99, 101), (96, 95, 97), Change.SAME, Change.SAME),  # apart, and within the limits
        ((100, 60, 140), (70, 50, 90), Change.CANNOT_TELL, Change.CANNOT_TELL),  # beyond the limits, and not apart
        ((100, 99, 101), (89.5, 88.5, 90.5), Change.CANNOT_TELL, Change.CANNOT_TELL),  # on both sides of a limit
        ((100, 100, 100), (80, 80, 80), Change.WORSE, Change.BETTER),
    ],
)
def test_worse_is_what_is_apart_and_beyond_the_limit(before: Any, after: Any, rate: Change, duration: Change) -> None:
    first, second = (Number(value, (low, high)) for value, low, high in (before, after))
    assert (judge("GB/s", first, second), judge("s", first, second)) == (rate, duration)


def test_the_uncertainty_of_the_earlier_value_counts_within_a_run_too() -> None:
    sure = judging.judge(80.0, ci95=(79.0, 81.0), baseline=100.0, baseline_ci95=(99.0, 101.0))
    assert (sure.word, sure.because) == (Word.DEGRADED, "0.80 x its own earlier value")
    unsure = judging.judge(80.0, ci95=(79.0, 81.0), baseline=100.0, baseline_ci95=(81.0, 119.0))
    assert (unsure.word, unsure.borderline) == (Word.GOOD, True)
    slower = judging.judge(1.5, ci95=(1.4, 1.6), higher_is_better=False, baseline=1.0, baseline_ci95=(0.9, 1.1))
    assert slower.word is Word.LOW
    assert judging.judge(1.5, ci95=(1.0, 1.6), higher_is_better=False, baseline=1.0).word is Word.GOOD


def test_an_unchanged_machine_raises_no_alarm_and_a_slower_one_always_does() -> None:
    """Pairs of rounds that were measured, each against each: false alarms are counted."""
    rounds = noise()
    pairs = alarms = missed = 0
    for before in rounds[::4]:
        for after in rounds:
            for first, second in zip(before, after, strict=True):
                pairs += 1
                earlier, later = (
                    Number(first, (first * 0.996, first * 1.004)),
                    Number(second, (second * 0.996, second * 1.004)),
                )
                alarms += judge("GB/s", earlier, later) is Change.WORSE
                slow = Number(second * 0.75, (second * 0.747, second * 0.753))
                missed += judge("GB/s", earlier, slow) is not Change.WORSE
    assert pairs > 40_000
    assert alarms == 0
    assert missed / pairs < 1e-3, f"{missed} of {pairs}"


def test_two_runs_are_compared_worst_first() -> None:
    slow = {("matmul_bf16", 3): 0.6, ("esm2_650m_step", 3): 0.8, ("host_to_device", 5): 1.3}
    after = run(1, slow=slow, driver="580.95.05", uuids=(*GPUS[:7], "GPU-new"))
    after["bionemo"]["measurements"][1]["judgement"] = "untrusted"
    found = compare(report(0), Report.of(after))
    assert [(one.name, one.device, one.verdict.value) for one in found.numbers if one.verdict is not Change.SAME] == [
        ("matmul_bf16", GPUS[3], "worse"),
        ("esm2_650m_step", GPUS[3], "worse"),
        ("host_to_device", GPUS[5], "better"),
    ]  # fmt: skip
    worst = found.numbers[0]
    assert worst.speed == pytest.approx(0.6, rel=0.1)
    assert worst.change_ci95[0] < worst.change < worst.change_ci95[1] < NODE.low - 1
    assert found.numbers[1].change > 0.1, "a duration has grown"
    assert found.differences[0] == "driver: 580.65.06 before, 580.95.05 now"
    # What was faster than physics is no number, and a GPU that is new has none before.
    assert ("matmul_fp8", GPUS[0]) in found.missing
    assert {device for _, device in found.new} == {"GPU-new"}
    assert compare(report(0), report(0, level="full")).refused.startswith("it is of level standard")
    assert compare(report(0), report(0, uuids=("GPU-x",))).refused.startswith("it is of another machine")


# ---- the command


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with the runs of one machine, of which the third has a GPU that became slower."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    store = Store(tmp_path)
    store.save(run(0), "nightly")
    store.save(run(1, driver="580.95.05"), "after-driver-update")
    return store.save(run(2, driver="580.95.05", slow={("matmul_bf16", 3): 0.6}), "nightly").parent.name


def test_runs_are_saved_listed_shown_and_compared(
    machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(status: int, *arguments: str) -> str:
        assert command.main(arguments) == status
        out, err = capsys.readouterr()
        assert (err == "") is (status != 4 or bool(out))
        lines = (out or err).splitlines()
        assert not out or max(map(len, lines)) <= 80 or "/" in out
        return out or err

    listed = said(0, "list")
    assert listed.splitlines()[0] == f"{machine}: 8 GPUs (NVIDIA H100 80GB HBM3)"
    assert "  0002 after-driver-update  2026-11-03 06:30  standard  READY    580.95.05" in listed
    assert said(0, "show", "2") == said(0, "show", "after-driver-update")
    assert "BioNeMo readiness: READY" in said(0, "show", "last")

    worse = said(1, "compare", "2", "last")
    assert worse.startswith("================== BioNeMo history: 1 of 72 numbers is worse ")
    assert re.search(
        r"^WORSE +device  before +after +change \(95 %\)\n"
        r"  matmul bf16     gpu3    7\d\d.* -\d\d% \(-\d\d\.\d to -\d\d\.\d\)",
        worse,
        re.M,
    )
    assert "same     71 numbers (--all lists them)" in worse
    assert said(1, "compare", "2", "last", "--all").count("gpu") == 72
    assert "driver: 580.65.06 before, 580.95.05 now" in said(0, "compare", "1", "2")
    document = json.loads(said(1, "compare", "2", "3", "--json"))
    assert (document["before"]["run"], document["numbers"][0]["verdict"]) == (
        "0002_after-driver-update.json",
        "worse",
    )

    save(tmp_path / "r.json", run(3, level="full", uuids=("GPU-x",)))
    other = said(0, "save", str(tmp_path / "r.json"))
    assert other.endswith("0001_full.json\n")
    assert "REFUSED  no number is compared" in said(4, "compare", str(tmp_path / "r.json"), "1", "--machine", machine)
    for arguments, error in (
        (["show", "1"], f"which machine is meant? Add --machine with one of: {min(machine, 'z')}"),
        (["show", "9", "--machine", machine], "'9' is no run of this machine. The last ones are: 1 nightly, 2 after"),
        (["show", "\u00b2", "--machine", machine], "'\u00b2' is no run of this machine."),
        (["show", "1", "--machine", "x"], "--machine 'x' is none of: "),
        (["show", "none.json"], "none.json: cannot be read"),
        (["save", str(tmp_path / "r.json"), "--name", "a/b"], "'a/b' is not a name for a run"),
        (["plot", "--machine", machine, "-o", "p.png"], "-o p.png: a page ends in .html, a drawing in .svg"),
        (
            ["plot", "--machine", machine, "--number", "x"],
            "--number 'x' is no number of these runs. Choose from: mat",
        ),
        (["frobnicate"], "invalid choice"),
        ([], "required: COMMAND"),
    ):
        text = said(4, *arguments)
        if "which machine" not in text:
            assert error in text
        assert len(text.splitlines()) == 1


def test_the_page_of_the_docs_shows_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    store = Store(tmp_path)
    for number, made in enumerate(fortnight()):
        store.save(made, "after-driver-update" if number == 5 else "standard")
    page = (Path(__file__).parents[1] / "docs" / "history.md").read_text()
    for arguments in (["list"], ["compare", "after-driver-update", "last"], ["compare", "1", "after-driver-update"]):
        command.main(arguments)
        printed = capsys.readouterr().out
        assert f"```text\n$ python -m pytest_bionemo history {' '.join(arguments)}\n{printed}```\n" in page


def test_one_damaged_run_is_named_and_costs_the_others_nothing(
    machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / machine / "0004_x.json", run(job={**JOB, "nodes": "many"}))
    save(tmp_path / machine / "0005_y.json", run(uuids=("GPU-of-another-machine",), slow={("matmul_bf16", 0): 0.1}))
    hostile = run(6, driver="\x1b[31m\u202e" + "x" * 500)
    hostile["bionemo"]["level"] = "\x1b[31m"
    save(tmp_path / machine / "0006_z.json", hostile)
    for arguments, status in ((["list"], 0), (["compare", "1", "6"], 4), (["plot", "--level", "standard"], 0)):
        assert command.main(arguments) == status
        out, err = capsys.readouterr()
        assert "\x1b" not in out
        if arguments[0] == "compare":
            assert "this one of level \\x1b[31m" in " ".join(out.split())
        else:
            assert "0005_y.json: it is of another machine, gpus-" in " ".join((out + err).split())
            assert "0004_x.json: the report is damaged (ValueError" in " ".join((out + err).split())
    assert "0001 nightly of" in out


def test_the_command_imports_nothing_from_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('a file of this folder')")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_bionemo", "history", "list"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, VARIABLE: str(tmp_path / "none")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_history_says_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert command.main(["list"]) == 0
    assert capsys.readouterr().out.endswith("none: $ pytest --bionemo-validate --bionemo-save\n")
    assert command.main(["plot"]) == 4
    assert not (tmp_path / "none").exists()
