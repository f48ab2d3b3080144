"""The options of the plugin and their ini twins: declared, read and validated in one place."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from pytest_bionemo.terms import DEFAULT_REPORT, DEVICES, LEVELS, PROGRESS, RUN_NAME, Device, Level, Progress

DEFAULT_TIMEOUT_S = 120.0
_LONGEST_TIMEOUT_S = 24 * 60 * 60
REQUIREMENTS = ("install", "ready")
_TARGET = "bionemo_target"
_NOUNS = {"level": "level", "device": "device", "require": "verdict to require", "progress": "way to show progress"}

# name without the prefix: help
_SWITCHES: dict[str, str] = {
    "validate": "Run the shipped checks: alone, or with the tests of the paths that are given.",
    "hyperpod-line": "End with the line that SageMaker HyperPod's health checks read.",
    "strict": "In your own tests: a requirement that is not met fails the test instead of skipping it.",
}
# name without the prefix: (default, metavar, help)
_VALUED: dict[str, tuple[str, str, str]] = {
    "level": ("standard", "LEVEL", "How deep to look: quick (no GPU kernel), standard or full."),
    "device": ("cuda", "DEVICE", "cuda, or cpu for a rehearsal, which can never be READY."),
    "require": ("install", "VERDICT", "The verdict that exits 0: install (READY_FOR_INSTALL too) or ready."),
    "report": (DEFAULT_REPORT, "PATH", "JSON report; an existing folder gets HOSTNAME.json."),
    "html": ("", "PATH", "The report as one page too; an existing folder gets HOSTNAME.html."),
    "timeout": (f"{DEFAULT_TIMEOUT_S:g}", "SECONDS", "Deadline of each probe and of each workload."),
    "progress": ("auto", "WHEN", "Show what is waited for: auto (on terminals, now and then in logs), on or off."),
    "expect-gpus": ("", "N", "Number of GPUs that this machine must have."),
    "baseline": ("", "PATH", "Compare with an earlier run: last, a report, or a folder of kept runs."),
}


class Options(NamedTuple):  # a dataclass takes 2 ms longer to make, in every run of pytest
    """The validated options of one run. ``timeout`` is in seconds."""

    validate: bool
    level: Level
    device: Device
    require: str
    report: str
    timeout: float
    expect_gpus: int | None
    targets: tuple[str, ...] = ()
    hyperpod_line: bool = False
    strict: bool = False
    baseline: str = ""
    save: str | None = None  # the name of the run in the store; "" for that of its level
    html: str | None = None
    progress: Progress = "auto"


def add(parser: pytest.Parser) -> None:
    """Declare every option and its ini twin."""
    group = parser.getgroup("bionemo", "NVIDIA BioNeMo readiness")
    for name, text in _SWITCHES.items():
        group.addoption(f"--bionemo-{name}", action="store_true", default=None, dest=_key(name), help=text)
        parser.addini(_key(name), f"Ini twin of --bionemo-{name}.", type="bool", default=False)
    group.addoption(
        "--bionemo-target",
        action="append",
        default=None,
        dest=_TARGET,
        metavar="NAME",
        help="This BioNeMo workload must be runnable here, such as esm2-650m; may be repeated. Default: none.",
    )
    parser.addini(_TARGET, "Ini twin of --bionemo-target.", type="args", default=[])
    group.addoption(
        "--bionemo-save",
        nargs="?",
        const="",
        default=None,
        metavar="NAME",
        help="Keep this run in the history of the machine; without NAME it is called by its level. Default: no.",
    )
    parser.addini(_key("save"), "Ini twin of --bionemo-save: the name.")
    for name, (default, metavar, text) in _VALUED.items():
        key = _key(name)
        group.addoption(
            f"--bionemo-{name}",
            dest=key,
            default=None,
            metavar=metavar,
            help=f"{text} Default: {default or 'none'}.",
        )
        parser.addini(key, f"Ini twin of --bionemo-{name}.")


def read(config: pytest.Config) -> Options:
    """The options of this run, from the command line or the ini file.

    :raises pytest.UsageError: one line that names the option, its value and what it takes.
    """
    if config.getoption(_key("hyperpod-line")) and not _read_switch(config, "validate"):
        raise pytest.UsageError("--bionemo-hyperpod-line needs --bionemo-validate: the line is of its report.")
    for name in ("baseline", "html", "save"):
        if config.getoption(_key(name)) is not None and not _read_switch(config, "validate"):
            raise pytest.UsageError(f"--bionemo-{name} needs --bionemo-validate: it is about the run of the checks.")
    return Options(
        validate=_read_switch(config, "validate"),
        level=_one_of(config, "level", LEVELS),
        device=_one_of(config, "device", DEVICES),
        require=_one_of(config, "require", REQUIREMENTS),
        report=_text(config, "report")[0],
        timeout=_seconds(config, "timeout"),
        expect_gpus=_count(config, "expect-gpus"),
        targets=_targets(config),
        hyperpod_line=_read_switch(config, "hyperpod-line"),
        strict=_read_switch(config, "strict"),
        baseline=_baseline(config),
        save=_name(config, "save"),
        html=_page(config),
        progress=_one_of(config, "progress", PROGRESS),
    )


def _targets(config: pytest.Config) -> tuple[str, ...]:
    given = config.getoption(_TARGET)
    origin = "--bionemo-target" if given is not None else f"ini option {_TARGET}"
    try:
        wanted = given if given is not None else config.getini(_TARGET)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise pytest.UsageError(f"{origin}: {error}. It is a list of names of targets.") from None
    if not wanted:
        return ()
    # Here: who wants none does not pay for the table.
    from difflib import get_close_matches

    from pytest_bionemo.facts import FactsError, targets

    try:
        known = targets.names()
    except FactsError as error:
        raise pytest.UsageError(str(error)) from None
    for name in wanted:
        if name not in known:
            near = get_close_matches(name.lower().replace(" ", "-"), known, cutoff=0.7)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise pytest.UsageError(f"{origin}: {name!r} is not a target.{hint} Choose from: {', '.join(known)}.")
    return tuple(dict.fromkeys(wanted))


def _key(name: str) -> str:
    return "bionemo_" + name.replace("-", "_")


def _read_switch(config: pytest.Config, name: str) -> bool:
    key = _key(name)
    given = config.getoption(key)
    try:
        return bool(given if given is not None else config.getini(key))
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise pytest.UsageError(f"ini option {key}: {error}. Choose from: true, false.") from None


def _text(config: pytest.Config, name: str) -> tuple[str, str]:
    """The value, and where it came from."""
    key = _key(name)
    given = config.getoption(key)
    if given is not None:
        return str(given), f"--bionemo-{name}"
    try:
        twin = config.getini(key)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise pytest.UsageError(f"ini option {key}: {error}. {_VALUED[name][2]}") from None
    return str(twin or _VALUED[name][0]), f"ini option {key}"


def _name(config: pytest.Config, name: str) -> str | None:
    """What a run is to be called in the store; None where it is not kept."""
    given = config.getoption(_key(name))
    value: str | None = given
    origin = f"--bionemo-{name}"
    if given is None:
        origin = f"ini option {_key(name)}"
        try:
            value = config.getini(_key(name)) or None
        except (ValueError, TypeError, pytest.UsageError) as error:
            raise pytest.UsageError(f"{origin}: {error}. It is the name of the run, such as nightly.") from None
    if value and not re.fullmatch(RUN_NAME, value):
        raise pytest.UsageError(
            f"{origin}: {value!r} is not a name for a run, such as before-update. "
            f"Without a name, write --bionemo-{name} after the paths."
        )
    if value and _has_swallowed(value, origin, config):
        raise pytest.UsageError(
            f"{origin}: is {value!r} the name of the run, or a path to test? Write {origin}={value}, "
            f"or {origin} after the paths."
        )
    return value


def _has_swallowed(value: str, option: str, config: pytest.Config) -> bool:
    """Whether an option that need not have a value may have taken a path for it, which would then not be tested."""
    given = config.invocation_params
    return (option, value) in pairwise(map(str, given.args)) and (given.dir / value).exists()


def _one_of(config: pytest.Config, name: str, choices: tuple[Any, ...]) -> Any:
    value, origin = _text(config, name)
    if value not in choices:
        raise pytest.UsageError(f"{origin}: {value!r} is not a {_NOUNS[name]}. Choose from: {', '.join(choices)}.")
    return value


def _seconds(config: pytest.Config, name: str) -> float:
    value, origin = _text(config, name)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        raise pytest.UsageError(
            f"{origin}: {value!r} is not a number of seconds above 0 and up to {_LONGEST_TIMEOUT_S}, such as 60."
        )
    return seconds


def _baseline(config: pytest.Config) -> str:
    """The run to compare with; "" if nobody asked for one. An empty one on the command line is a mistake."""
    value, origin = _text(config, "baseline")
    if not value and config.getoption(_key("baseline")) is not None:
        raise pytest.UsageError(f"{origin}: '' is no run to compare with. Give last, a report or a folder of runs.")
    return value


def _page(config: pytest.Config) -> str | None:
    """Where the page goes; None if nobody asked for one. An empty path on the command line is a mistake."""
    value, _ = _text(config, "html")
    return value if value or config.getoption(_key("html")) is not None else None


def _count(config: pytest.Config, name: str) -> int | None:
    value, origin = _text(config, name)
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise pytest.UsageError(f"{origin}: {value!r} is not a number of GPUs from 1 on, such as 8.")
    return int(value)
