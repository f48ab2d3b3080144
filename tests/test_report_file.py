"""The report as a file: where it lies, what must not be in it, and its schema."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest

from conftest import REPORT, SCHEMA, Rig, assert_valid
from pytest_bionemo.report import layout
from pytest_bionemo.report.clean import clean
from pytest_bionemo.report.place import Place, PlaceError
from standin import H100x8

Json = dict[str, Any]


# ---- its place


def test_a_folder_gets_the_name_of_the_host(tmp_path: Path) -> None:
    assert Place(str(tmp_path), Path("/")).path == tmp_path / f"{socket.gethostname()}.json"


def test_a_relative_path_is_relative_to_where_pytest_was_started(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert Place("out/r.json", tmp_path).path == tmp_path / "out" / "r.json"


def test_a_path_may_begin_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Place("~/r.json", Path("/")).path == tmp_path / "r.json"


def test_a_place_is_shown_as_it_would_be_typed(tmp_path: Path) -> None:
    place = Place("r.json", tmp_path)
    assert place.shown_from(tmp_path) == "r.json"
    assert place.shown_from(tmp_path / "elsewhere") == str(tmp_path / "r.json")


@pytest.mark.parametrize(("name", "missing"), [("no/r.json", "no"), ("no/", "no"), ("a/b/", "a/b")])
def test_a_folder_that_is_not_there_is_named(name: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(PlaceError) as caught:
        Place(name, tmp_path)
    text = f"the folder {tmp_path / missing} does not exist. Make it, or choose another --bionemo-report."
    assert str(caught.value) == text
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for name in ("file/r.json", "file/"):
        with pytest.raises(PlaceError):
            Place(name, tmp_path)
    assert (tmp_path / "file").read_text() == "kept"


def test_nodes_that_are_given_one_name_make_it_a_folder(tmp_path: Path) -> None:
    # Each is given its place before the first of them makes the folder.
    places = [Place("reports", tmp_path, "job-3", node, of_many=True) for node in ("node1", "node2")]
    assert list(tmp_path.iterdir()) == []
    for place in places:
        place.begin({"run": place.path.stem})
    assert [place.path for place in places] == [tmp_path / "reports" / "job-3" / f"node{n}.json" for n in (1, 2)]
    assert [json.loads(place.path.read_text())["run"] for place in places] == ["node1", "node2"]
    later = Place("reports", tmp_path, "job-4", "node1", of_many=True)
    assert later.path == tmp_path / "reports" / "job-4" / "node1.json"


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("new/", "report", "new/job-3/node1.json"),
        ("new.d/", "report", "new.d/job-3/node1.json"),
        ("new.json/", "report", "new.json/job-3/node1.json"),
        ("new.json", "report", "new.json"),
        ("old", "report", "old"),  # a file that is there is meant
        ("new", "page", "new/job-3/node1.html"),
        ("new.html", "page", "new.html"),
    ],
)
def test_what_is_a_file_to_many_nodes_and_what_a_folder(name: str, kind: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("{}")
    place = Place(name, tmp_path, "job-3", "node1", kind, of_many=True)
    assert place.path == tmp_path / path
    place.begin({})
    assert place.path.is_file()


def test_a_job_without_an_id_has_no_folder_below_the_one_that_is_made(tmp_path: Path) -> None:
    Place("reports", tmp_path, of_many=True).begin({})
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [f"{socket.gethostname()}.json"]


@pytest.mark.parametrize(("name", "missing"), [("no/reports", "no"), ("a/b/", "a/b")])
def test_many_nodes_make_one_folder_and_none_above_it(name: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match=f"the folder {tmp_path / missing} does not exist. Make it"):
        Place(name, tmp_path, "job-3", of_many=True)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nothing_is_no_folder_for_many_nodes(tmp_path: Path) -> None:
    (tmp_path / "reports").symlink_to("gone")
    with pytest.raises(PlaceError, match="cannot write the report to "):
        Place("reports", tmp_path, "job-3", of_many=True).begin({})
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]


def test_one_node_writes_the_file_that_it_is_told(tmp_path: Path) -> None:
    assert Place("reports", tmp_path, "job-3").path == tmp_path / "reports"


def test_the_report_of_another_run_is_not_overwritten_by_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("READY of yesterday")
    place, other = Place("r.json", tmp_path), Place("r.json", tmp_path)
    place.begin({"run": 1})
    other.begin({"run": 2})
    other.write({"verdict": "BLOCKED"})
    place.restore()
    assert json.loads((tmp_path / "r.json").read_text()) == {"verdict": "BLOCKED"}


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    place = Place("r.json", tmp_path)
    (tmp_path / "r.json").mkdir()
    with pytest.raises(OSError, match="no regular file"):
        place.write({"verdict": "READY"})
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_place_that_cannot_be_written_is_named_with_the_reason() -> None:
    place = Place("/proc/x", Path("/"))
    with pytest.raises(PlaceError) as caught:
        place.begin({})
    assert str(caught.value).startswith("cannot write the report to /proc/x: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"), [("x" * 300, "File name too long"), ("~nobody-of-this-name/r.json", "ould not determine home")]
)
def test_a_name_that_leads_nowhere_is_named_with_the_reason(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(PlaceError) as caught:
        Place(name, tmp_path)
    assert str(caught.value).startswith(f"cannot write the report to {name}: ")
    assert why in str(caught.value)


def test_a_link_to_itself_and_a_name_that_none_can_have_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to("loop.json")
    for name in ("loop.json", "a\0b"):
        with pytest.raises(
            PlaceError
        ) as caught:  # where Python takes a loop for a path, at the latest when it begins
            Place(name, tmp_path).begin({})
        assert str(caught.value).startswith("cannot write the report to ")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["loop.json"]
    assert (tmp_path / "loop.json").is_symlink()


def test_an_empty_name_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="'' is no path"):
        Place("", tmp_path)


def test_no_device_is_replaced_by_a_report(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlaceError, match="is no regular file"):
        Place("pipe", tmp_path)
    with pytest.raises(PlaceError, match="/dev/null is no regular file"):
        Place("/dev/null", tmp_path)
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_to_a_report_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("real.json")
    Place("link.json", tmp_path).write({"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"a": 1}


def test_a_place_is_proved_without_leaving_a_trace(tmp_path: Path) -> None:
    Place("r.json", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_replaced_and_never_rewritten(tmp_path: Path) -> None:
    place = Place("r.json", tmp_path)
    place.write({"a": 1})
    with place.path.open() as reader:
        place.write({"a": 2})
        # Who had it open still reads the former one, whole.
        assert json.load(reader) == {"a": 1}
    assert json.loads(place.path.read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_report_that_cannot_be_json_leaves_the_former_one(tmp_path: Path) -> None:
    place = Place("r.json", tmp_path)
    place.write({"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        place.write({"a": math.nan})
    assert json.loads(place.path.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_what_lay_there_before_can_be_put_back(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"yesterday's\n")
    place = Place("r.json", tmp_path)
    place.begin({"a": 1})
    assert json.loads(place.path.read_text()) == {"a": 1}
    place.restore()
    assert place.path.read_bytes() == b"yesterday's\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_where_nothing_lay_nothing_is_put_back(tmp_path: Path) -> None:
    place = Place("r.json", tmp_path)
    place.begin({"a": 1})
    place.restore()
    place.restore()
    assert list(tmp_path.iterdir()) == []


# ---- its lines

MANY: Json = {
    "created": 1.5,
    "summary": {"total": 2, "deep": {"er": [1, {"a": "b\nc"}]}},
    "bionemo": {
        "verdict": "READY",
        "blockers": [{"check": "a::b", "fix": ["$ one", "two"]}],
        "checks": [{"id": "a::b"}, {"id": "a::c"}],
        "measurements": [],
        "not_run": [{"reason": "\u2028 \n ]"}],
        "environment": {"os": None, "extra": {}},
    },
    "tests": [{"nodeid": "a::b", "call": {"outcome": "passed"}}, {"nodeid": "a::c"}],
}


def test_what_there_is_much_of_has_a_line_for_each() -> None:
    text = layout.dumps(MANY)
    assert json.loads(text) == MANY
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    for entry in [*MANY["tests"], *MANY["bionemo"]["checks"], *MANY["bionemo"]["not_run"]]:
        assert json.dumps(entry) in lines
    assert '"$ one"' in lines  # a finding can be read
    assert '"a": "b\\nc"' in lines


def test_what_is_directly_in_a_report_is_indented_by_one_space_and_nothing_else_is() -> None:
    names = [line.split('"')[1] for line in layout.dumps(MANY).splitlines() if line.startswith(' "')]
    assert names == list(MANY)


@pytest.mark.parametrize("where", [{"tests": [{"x": math.inf}]}, {"bionemo": {"x": math.nan}}, {"x": [-math.inf]}])
def test_a_number_that_json_has_none_for_is_refused(where: Json) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        layout.dumps(where)


def test_what_json_has_no_type_for_is_text() -> None:
    made = json.loads(
        layout.dumps({"tests": [{"path": Path("/a")}], "bionemo": {"x": Path("/b"), 3: {Fraction(1, 2)}}})
    )
    assert made == {"tests": [{"path": "/a"}], "bionemo": {"x": "/b", "3": "{Fraction(1, 2)}"}}


def test_the_report_of_a_run_has_a_line_for_each_test_and_no_marks(healthy_rig: Rig) -> None:
    run = healthy_rig.validate()
    lines = {line.strip().rstrip(",") for line in run.report_path.read_text().splitlines()}
    assert {json.dumps(test) for test in run.report["tests"]} <= lines
    assert {json.dumps(check) for check in run.bionemo["checks"]} <= lines
    assert not any("keywords" in test for test in run.report["tests"])
    # Who asks for pytest-json-report's own document gets all of it.
    asked = healthy_rig.validate("--json-report", "--json-report-file", "mine.json")
    assert all(test["keywords"] for test in asked.report["tests"])


# ---- what must not be in it

SECRET = "s3cr3t-value-of-this-test"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "NGC_API_KEY", "aws_secret_access_key", "PGPASSWORD", "PASSWD", "GCP_CREDENTIALS"]
)
def test_the_value_of_a_secret_variable_goes_wherever_it_stands(name: str) -> None:
    document = {"a": [f"pip install --index https://u:{SECRET}@host"], SECRET: {"b": (SECRET, SECRET * 2)}}
    cleaned = clean(document, {name: SECRET})
    assert SECRET not in json.dumps(cleaned)
    assert cleaned["a"] == ["pip install --index https://u:[redacted]@host"]
    assert cleaned["[redacted]"] == {"b": ["[redacted]", "[redacted][redacted]"]}


def test_values_that_are_no_secrets_stay() -> None:
    environment = {"PATH": "/usr/bin:/bin", "SHORT_KEY": "1234567", "EMPTY_TOKEN": "", "MONKEY": "x"}
    assert clean("PATH is /usr/bin:/bin, 1234567 x", environment) == "PATH is /usr/bin:/bin, 1234567 x"


def test_words_of_the_report_and_words_that_are_keys_of_something_stay() -> None:
    environment = {"A_KEY": "packages", "B_TOKEN": "numerics", "PASSWORD": "not_applicable", "DB_KEY": "customers"}
    document = {"sections": {"packages": "PASSED", "numerics": "PASSED"}, "not_applicable": ["customers"]}
    assert clean(document, environment) == document
    secrets = {
        "PASSWORD": "correcthorse",
        "PGPASSWORD": "postgres",
        "SSH_KEY": "qwertyuiopasdfgh",
        "A_KEY": "customers1",
    }
    assert clean(list(secrets.values()), secrets) == ["[redacted]"] * 4


def test_every_line_of_a_secret_goes() -> None:
    environment = {"SSH_KEY": "-----BEGIN KEY-----\n  b3BlbnNzaC1rZXkt\n-----END KEY-----\n"}
    said = clean("E   -----BEGIN KEY-----\nE     b3BlbnNzaC1rZXkt\nE   -----END KEY-----", environment)
    assert said == "E   [redacted]\nE     [redacted]\nE   [redacted]"


def test_a_secret_that_holds_another_goes_whole() -> None:
    environment = {"A_TOKEN": "12345678", "B_TOKEN": "12345678-and-more"}
    assert clean("12345678-and-more, 12345678", environment) == "[redacted], [redacted]"


@pytest.mark.parametrize(
    "token",
    [
        "hf_abcdefghijklmnopqrstuvwxyz",
        "nvapi-abcdefghijklmnop",
        "ghp_0123456789abcdefghij",
        "github_pat_0123456789abcdef",
        "sk-proj-abcdefghijklmnop",
        "dapi0123456789abcdef",
        "AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_a_token_is_known_by_its_form(token: str) -> None:
    assert clean(f"said '{token}', twice {token}", {}) == "said '[redacted]', twice [redacted]"


@pytest.mark.parametrize("text", ["half_precision_is_supported", "task-oriented-things-are-kept", "hf_home", "sk-1"])
def test_words_that_only_look_like_tokens_stay(text: str) -> None:
    assert clean(text, {}) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("/home/ada", "~"),
        ("/home/ada/x.py", "~/x.py"),
        ("'/home/ada': no", "'~': no"),
        ("/home/ada:/usr", "~:/usr"),
        ("/home/adam/x.py", "/home/adam/x.py"),
        ("/home/ada.old/x", "/home/ada.old/x"),
    ],
)
def test_the_home_folder_names_nobody(text: str, cleaned: str) -> None:
    assert clean(text, {"HOME": "/home/ada"}) == cleaned
    assert clean(text, {"HOME": "/home/ada/"}) == cleaned


@pytest.mark.parametrize("home", ["", "/"])
def test_a_home_that_is_everything_hides_nothing(home: str) -> None:
    assert clean("/usr/lib/x.so", {"HOME": home}) == "/usr/lib/x.so"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("/tmp/torchinductor_ada (noexec)", "/tmp/torchinductor_USER (noexec)"),
        ("/scratch/ada/x, /data/ada", "/scratch/USER/x, /data/USER"),
        ("/scratch/adaptive, ada, /ada-2", "/scratch/adaptive, ada, /ada-2"),
        ("bionemo/ada::loads", "bionemo/ada::loads"),
        ("/fsx/ada: Stale file handle", "/fsx/USER: Stale file handle"),
    ],
)
@pytest.mark.parametrize("variable", ["USER", "LOGNAME"])
def test_the_name_of_the_user_is_in_no_path(text: str, cleaned: str, variable: str) -> None:
    assert clean(text, {variable: "ada"}) == cleaned


def test_a_user_of_no_name_changes_no_path() -> None:
    users = {"USER": "root", "LOGNAME": "ubuntu"}
    text = "/{USER}/x /{LOGNAME}".format(**users)
    assert clean(text, users) == text


def test_the_variables_of_this_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", SECRET)
    assert clean(SECRET) == "[redacted]"


class Number:
    """What numpy's scalars are to JSON: a number in all but type."""

    def __float__(self) -> float:
        return 1.5

    def __repr__(self) -> str:
        return "1.5"


class Level(IntEnum):
    HIGH = 3


class Word(str, Enum):
    YES = "yes"


class Float(float):
    def __repr__(self) -> str:
        return "no JSON"


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (2**70, 2**70),
        (1.5, 1.5),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (Number(), "1.5"),
        (Fraction(1, 2), "1/2"),
        (Float(2.5), 2.5),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (Path("/x/y"), "/x/y"),
        (b"bytes", "b'bytes'"),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        (MappingProxyType({"a": {1: math.nan}}), {"a": {"1": "nan"}}),
        ({"a": [{"b": ({"c": math.inf},)}]}, {"a": [{"b": [{"c": "inf"}]}]}),
    ],
)
def test_every_value_becomes_one_that_json_can_hold(value: object, cleaned: object) -> None:
    made = clean(value, {})
    assert made == cleaned
    assert type(made) is type(cleaned)
    assert json.loads(json.dumps(made, allow_nan=False)) == cleaned


def test_what_is_turned_into_text_is_searched_for_secrets_too() -> None:
    assert clean(Path(f"/x/{SECRET}"), {"A_TOKEN": SECRET}) == "/x/[redacted]"


def test_cleaning_leaves_the_document_alone() -> None:
    document = {"a": [SECRET, math.nan], "b": {"c": (1,)}}
    before = copy.deepcopy(document)
    clean(document, {"A_TOKEN": SECRET})
    assert repr(document) == repr(before)


# ---- the schema


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.fixture(scope="module")
def report(plain_environment: Any, libraries: Any, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """A real report, of a node without torch."""
    rig = Rig(plain_environment, libraries, tmp_path_factory.mktemp("report"))
    rig.node = H100x8
    return rig.validate().report


DAMAGES: dict[str, Callable[[Json], object]] = {
    "no verdict of ours": lambda run: run.update(verdict="MAYBE"),
    "no verdict": lambda run: run.pop("verdict"),
    "unknown key": lambda run: run.update(mood="good"),
    "a section of another state": lambda run: run["sections"].update(driver="FINE"),
    "an unknown action": lambda run: run.update(action="PRAY"),
    "an unknown level": lambda run: run.update(level="quikc"),
    "a time that is none": lambda run: run.update(started="yesterday"),
    "a blocker without a message": lambda run: run["blockers"][0].update(message=""),
    "a blocker with a word of its own": lambda run: run["blockers"][0].update(mood="bad"),
    "a fix that is no list": lambda run: run["blockers"][0].update(fix="$ pip install torch"),
    "a gap without a reason": lambda run: run["not_run"][0].pop("reason"),
    "a negative memory": lambda run: run["gpus"][0].update(memory_bytes=-1),
    "a capability of one number": lambda run: run["gpus"][0].update(compute_capability=[9]),
    "a package without its fate": lambda run: run["packages"][0].pop("fate"),
    "another version of the schema": lambda run: run.update(schema_version=2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_not_valid(report: Json, damage: str) -> None:
    assert_valid(report)
    damaged = copy.deepcopy(report)
    DAMAGES[damage](damaged["bionemo"])
    with pytest.raises(jsonschema.ValidationError):
        assert_valid(damaged)


@pytest.mark.parametrize("key", ["bionemo", "tests", "exitcode", "created"])
def test_a_report_without_one_of_its_parts_is_not_valid(report: Json, key: str) -> None:
    damaged = {name: value for name, value in report.items() if name != key}
    with pytest.raises(jsonschema.ValidationError):
        assert_valid(damaged)


# ---- real runs


def no_constant(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")


ODD_CHECK = '''
import math, os
import pytest
from pytest_bionemo import check, fail

@check(severity="warning")
def speaks(record_property) -> None:
    """It speaks of everything."""
    record_property("odd", math.nan)
    record_property("path", os.path.expanduser("~/x"))
    print(os.environ["MY_API_TOKEN"])
    fail("seen " + os.environ["MY_API_TOKEN"], why=os.environ["HOME"] + "/x", fix="$ login " + os.environ["PASSWORD"])

@check(severity="warning")
def crashes() -> None:
    """It crashes."""
    raise ValueError("crashed with " + os.environ["MY_API_TOKEN"])
'''


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("-l", "--tb=long", "-s")], ids=" ".join)
def test_no_secret_and_no_nan_reaches_the_report(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.site.joinpath("odd_checks.py").write_text(ODD_CHECK)
    rig.write("conftest.py", "def pytest_bionemo_checks(config): return ['odd_checks']")
    secrets = {"MY_API_TOKEN": SECRET, "PASSWORD": "correct horse battery staple", "HOME": str(rig.folder / "ada")}
    rig.variables = {**secrets, "LD_LIBRARY_PATH": f"/opt/{SECRET}/lib"}
    run = rig.validate(*arguments)
    text = run.report_path.read_text()
    assert not [secret for secret in secrets.values() if secret in text]
    json.loads(text, parse_constant=no_constant)
    finding = run.finding("odd_checks::speaks")
    assert (finding["message"], finding["why"], finding["fix"]) == ("seen [redacted]", "~/x", ["$ login [redacted]"])
    assert run.gap("odd_checks::crashes")["reason"].endswith("ValueError: crashed with [redacted]")
    assert run.bionemo["environment"]["variables"]["LD_LIBRARY_PATH"] == "/opt/[redacted]/lib"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_real_run_leaves_one_file_and_nothing_else(rig: Rig, is_folder: bool) -> None:
    out = rig.project / "out"
    out.mkdir()
    name = f"{socket.gethostname()}.json" if is_folder else "r.json"
    rig.validate("--bionemo-report", "out" if is_folder else "out/r.json")
    assert [path.name for path in out.iterdir()] == [name]
    assert_valid(json.loads((out / name).read_text()))
    assert not (rig.project / REPORT).exists()


def left_in(rig: Rig) -> list[str]:
    """The files of the project but for pytest's own."""
    return sorted(path.name for path in rig.project.iterdir() if path.name != ".pytest_cache")


WAITING_PLUGIN = """
import os, signal
from pathlib import Path

def pytest_runtest_setup(item):
    Path("reached").touch()
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_the_truth(rig: Rig, number: signal.Signals) -> None:
    (rig.project / REPORT).write_text('{"bionemo": {"verdict": "READY"}}')
    # The hook of a conftest is not called for checks: a plugin's is.
    rig.site.joinpath("waiting.py").write_text(WAITING_PLUGIN)
    environ = {"PATH": os.environ["PATH"], "HOME": str(rig.folder), **rig.environ()}
    command = [str(rig.environment.python), "-m", "pytest", "--bionemo-validate", "-p", "waiting"]
    with subprocess.Popen(command, cwd=rig.project, env=environ, stdout=subprocess.DEVNULL) as process:
        while not (rig.project / "reached").exists():
            assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(number)
    report = json.loads((rig.project / REPORT).read_text())
    assert_valid(report)
    assert report["bionemo"]["verdict"] == "INCONCLUSIVE"
    assert report["exitcode"] is None
    assert [gap["reason"] for gap in report["bionemo"]["not_run"]] == ["the run has not finished"]
    assert left_in(rig) == [REPORT, "reached"]


@pytest.mark.parametrize("former", ['{"bionemo": {"verdict": "READY"}}', None])
def test_a_usage_error_puts_back_what_was_there(rig: Rig, former: str | None) -> None:
    if former:
        (rig.project / REPORT).write_text(former)
    run = rig.validate("no/such/test.py")
    assert run.returncode == 4
    assert left_in(rig) == ([REPORT] if former else [])
    assert former is None or (rig.project / REPORT).read_text() == former
