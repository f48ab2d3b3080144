"""Devices that are slower than the others of the fleet, by name, with how much and how sure that is.

Every quantity is compared among the devices of one model. What a healthy device may be off is estimated from the
fleet itself, and said: a fleet of few nodes, or a noisy quantity, shows large effects only. A device that is slower
in most quantities by less than any one of them can show is found by all of them together.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_bionemo.fleet.node import Numbers
from pytest_bionemo.fleet.spread import Spread, estimate

CONFIDENCE = 0.999
"""Of a thousand healthy nodes one is named at most, for any of its numbers or for all together."""

LEAST_EFFECT = 0.02
"""Devices that differ by less are alike: nobody drains a node for it."""

FEWEST = 8
"""Values of a quantity below which there is no telling what is usual."""

OVERALL = "overall"
"""Stands for all quantities of a device together."""

_SINGLES, _TOGETHER = 4.0, 4 / 3
_FEWEST_TOGETHER = 5
_CONSISTENTLY = 0.75
_ALMOST = 1 - 1e-9

Quantity = tuple[str, str, str]
Owner = tuple[str, str]


class _Values:
    """All values of one quantity, as columns: the logarithm as of a duration, and how uncertain that is."""

    def __init__(self) -> None:
        self.logs = array("d")
        self.errors = array("f")


class _Ruler(NamedTuple):
    """What the values of a quantity are held against, which come in the order of the hosts.

    ``usual_error`` is how uncertain most are; what is nearer than ``nearest`` deviations is none of the slow.
    """

    quantity: Quantity
    spread: Spread
    usual_error: float
    nearest: float
    values: Iterator[tuple[float, float]]


class _Offs:
    """How far off one device is in each quantity: in deviations, and as a logarithm."""

    def __init__(self) -> None:
        self.distances = array("f")
        self.slower = array("f")


class _Off(NamedTuple):
    """How far off one device is in all that was measured."""

    owner: Owner
    distance: float
    slower: float


def find(numbers: Mapping[str, Numbers]) -> dict[str, Any]:
    """The document's ``stragglers``, and ``spreads``: what the fleet's values are like, and what they could show.

    :param numbers: the measurements of each host.
    """
    # A quarter of the doubt is for single numbers, which are many, the rest for all numbers of a device together.
    sizes = {host: _SINGLES * len(found.value) for host, found in numbers.items()}
    typical = statistics.median(sizes.values()) if sizes else 1.0
    fewest = min(filter(None, sizes.values()), default=1.0)
    rulers: dict[Quantity, _Ruler] = {}
    spreads: list[dict[str, Any]] = []
    for quantity, values in sorted(_collect(numbers).items()):
        if len(values.logs) >= FEWEST:
            rulers[quantity] = _ruler(quantity, values, fewest)
            spreads.append(_describe(quantity, len(values.logs), rulers[quantity].spread, typical))
    stragglers: list[dict[str, Any]] = []
    by_model: dict[str, list[_Off]] = defaultdict(list)
    for host in sorted(numbers):
        singles, devices = _hold(host, numbers[host], rulers, sizes[host])
        stragglers += singles
        for (model, device), off in devices.items():
            if len(off.distances) >= _FEWEST_TOGETHER:
                by_model[model].append(_sum_up((host, numbers[host].devices[device]), off))
    stragglers += _together(by_model, {host: _TOGETHER * len(one.devices) for host, one in numbers.items()})
    stragglers.sort(key=lambda entry: (-entry["effect"], entry["host"], entry["device"] or "", entry["measurement"]))
    return {"stragglers": stragglers, "spreads": spreads}


def _collect(numbers: Mapping[str, Numbers]) -> dict[Quantity, _Values]:
    """The values of each quantity, in the order of the hosts."""
    quantities: dict[Quantity, _Values] = defaultdict(_Values)
    for host in sorted(numbers):
        found = numbers[host]
        places = [(quantities[key], 1.0 if key[1] == "s" else -1.0) for key in found.quantities]
        for quantity, value, half_width in zip(found.quantity, found.value, found.half_width, strict=True):
            values, sign = places[quantity]
            values.logs.append(sign * math.log(value))
            # Half of a confidence interval of 95 % is two standard errors.
            values.errors.append(min(1.0, half_width / 2 / value) if math.isfinite(half_width) else 1.0)
    return quantities


def _ruler(quantity: Quantity, values: _Values, fewest: float) -> _Ruler:
    """:param fewest: values of a node, which is the first to be sure of."""
    spread = estimate(values.logs)
    return _Ruler(
        quantity,
        spread,
        usual_error=statistics.median(values.errors),
        nearest=_ALMOST * spread.distance_of(CONFIDENCE, fewest),
        values=zip(values.logs, values.errors, strict=True),
    )


def _hold(
    host: str, found: Numbers, rulers: Mapping[Quantity, _Ruler], size: float
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], _Offs]]:
    """The stragglers of one host, and how far off each of its devices is, by its model and number."""
    stragglers: list[dict[str, Any]] = []
    own = [rulers.get(key) for key in found.quantities]
    devices: dict[tuple[str, int], _Offs] = defaultdict(_Offs)
    for number, device in zip(found.quantity, found.device, strict=True):
        ruler = own[number]
        if ruler is None:
            continue
        quantity, spread, usual_error, nearest, values = ruler
        log, error = next(values)
        slower = log - spread.middle
        # What is less certain than usual has to be further out.
        doubt = error**2 - usual_error**2 if error > usual_error else 0.0
        distance = slower / (math.sqrt(spread.deviation**2 + doubt) if doubt else spread.deviation)
        off = devices[quantity[2], device]
        off.distances.append(distance)
        off.slower.append(slower)
        if distance >= nearest:
            owner = (host, found.devices[device])
            if one := _straggler(owner, quantity[0], slower, distance, spread, size):
                stragglers.append({**one, **_in_unit(quantity, log, spread)})
    return stragglers, devices


def _sum_up(owner: Owner, off: _Offs) -> _Off:
    # The one of which three quarters are further out: one slow quantity is not most of them.
    consistent = sorted(off.distances)[int((1 - _CONSISTENTLY) * len(off.distances))]
    return _Off(owner, _middle(off.distances), _middle(off.slower) if consistent > 0 else 0.0)


def _straggler(
    owner: Owner, name: str, slower: float, distance: float, spread: Spread, numbers: float
) -> dict[str, Any] | None:
    # Before it is a share: what is faster by more than a number can say has none.
    if slower <= 0 or (effect := -math.expm1(-slower)) < LEAST_EFFECT:
        return None
    confidence = spread.confidence(distance, numbers)
    if confidence < CONFIDENCE:
        return None
    host, device = owner
    return {
        "host": host,
        "device": device or None,
        "measurement": name,
        "value": None,
        "unit": None,
        "median": None,
        "effect": round(effect, 4),
        "confidence": round(min(confidence, 1 - 1e-9), 9),
    }


def _in_unit(quantity: Quantity, log: float, spread: Spread) -> dict[str, Any]:
    sign = 1 if quantity[1] == "s" else -1
    return {"value": math.exp(sign * log), "unit": quantity[1], "median": math.exp(sign * spread.middle)}


def _together(by_model: Mapping[str, Sequence[_Off]], sizes: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Devices that are slower in nearly everything, by the middle of how far off they are."""
    for offs in by_model.values():
        if len(offs) < FEWEST:
            continue
        spread = estimate([off.distance for off in offs])
        for off in offs:
            far = (off.distance - spread.middle) / spread.deviation
            if one := _straggler(off.owner, OVERALL, off.slower, far, spread, sizes[off.owner[0]]):
                yield one


def _middle(values: Sequence[float]) -> float:
    """The mean without the outer fifths: an outlier does not move it, and it wastes less than the median."""
    outer = len(values) // 5
    return statistics.fmean(sorted(values)[outer : len(values) - outer])


def _describe(quantity: Quantity, values: int, spread: Spread, numbers: float) -> dict[str, Any]:
    name, unit, model = quantity
    far = spread.distance_of(CONFIDENCE, numbers) * spread.deviation
    return {
        "measurement": name,
        "unit": unit,
        "model": model,
        "values": values,
        "median": _in_unit(quantity, 0.0, spread)["median"],
        "spread": round(math.expm1(min(spread.deviation, 50.0)), 6),
        "detectable": round(max(LEAST_EFFECT, -math.expm1(-far)), 4),
    }
