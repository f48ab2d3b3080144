"""Numbers that a test of somebody's own suite measures: for JUnit and JSON to read, and for the report."""

from __future__ import annotations

import json
import math
import re

from pytest_bionemo.compute import MEASUREMENT
from pytest_bionemo.model import Gpu, Measurement, MigDevice

Properties = list[tuple[str, object]]


class Measure:
    """What the fixture ``measure`` gives: it records the numbers of one test.

    ``properties`` are those of the test; ``nodeid`` is its id, None where no report is written.
    """

    def __init__(self, properties: Properties, nodeid: str | None) -> None:
        self._properties = properties
        self._nodeid = nodeid

    def __call__(self, name: str, value: float, unit: str, *, device: Gpu | MigDevice | str | None = None) -> None:
        """Record a number.

        :param name: what it is, in small letters, digits and underscores: "step_time".
        :param value: a finite number, or what float() makes one of, such as a tensor of one element.
        :param unit: "s", "tokens/s", "B"; "1" for a number without one.
        :param device: a Gpu of gpu_env.gpus, a UUID or "cpu"; None where it is about no device.
        :raises ValueError: one line that names the argument.
        """
        __tracebackhide__ = True
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name):
            raise ValueError(f"measure: {name!r} is no name of a number: use small letters, digits and underscores.")
        if not isinstance(unit, str) or not unit.strip():
            raise ValueError(f"measure: {name}: {unit!r} is no unit: say 's' or 'tokens/s', and '1' if it has none.")
        number, label = _number(name, value), _label(name, device)
        self._properties.append((f"{name} [{unit}]" + (f" on {label}" if label else ""), number))
        if self._nodeid is not None:
            record = Measurement(name, number, unit, label, test=self._nodeid)
            self._properties.append((MEASUREMENT, json.dumps(record.to_json())))


def _number(name: str, value: object) -> float:
    __tracebackhide__ = True
    number = math.nan
    if not isinstance(value, bool | str | bytes):
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of many elements
            number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"measure: {name}: {value!r} is not a finite number.")
    return number


def _label(name: str, device: object) -> str | None:
    __tracebackhide__ = True
    if device is None:
        return None
    label = device.label if isinstance(device, Gpu) else device.uuid if isinstance(device, MigDevice) else device
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"measure: {name}: device={device!r} is no Gpu of gpu_env.gpus, no UUID and not 'cpu'.")
    return label
