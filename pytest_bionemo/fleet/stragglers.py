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
from typing import Any

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
    """All values of one quantity, as columns: whose, the logarithm as of a duration, and how uncertain that is."""

    def __init__(self) -> None:
        self.owners = array("L")
        self.logs = array("d")
        self.errors = array("f")


class _Offs:
    """How far off one device is in each quantity: in deviations, and as a logarithm."""

    def __init__(self) -> None:
        self.distances = array("f")
        self.slower = array("f")


def find(numbers: Mapping[str, Numbers]) -> dict[str, Any]:
    """The document's ``stragglers``, and ``spreads``: what the fleet's values are like, and what they could show.

    :param numbers: the measurements of each host.
    """
    owners, quantities = _collect(numbers)
    # A quarter of the doubt is for single numbers, which are many, the rest for all numbers of a device together.
    sizes = {host: _SINGLES * len(found.value) for host, found in numbers.items()}
    typical = statistics.median(sizes.values()) if sizes else 1.0
    fewest = min(filter(None, sizes.values()), default=1.0)
    devices: dict[tuple[str, int], _Offs] = defaultdict(_Offs)
    stragglers: list[dict[str, Any]] = []
    spreads: list[dict[str, Any]] = []
    for quantity in sorted(quantities):
        values = quantities.pop(quantity)
        if len(values.logs) < FEWEST:
            continue
        spread = estimate(values.logs)
        spreads.append(_describe(quantity, len(values.logs), spread, typical))
        usual_error = statistics.median(values.errors)
        # A node with few values is the first to be sure of; nearly all values are nearer than that.
        nearest = _ALMOST * spread.distance_of(CONFIDENCE, fewest)
        model, middle, usual = quantity[2], spread.middle, spread.deviation
        for owner, log, error in zip(values.owners, values.logs, values.errors, strict=True):
            slower = log - middle
            # What is less certain than usual has to be further out.
            doubt = error**2 - usual_error**2 if error > usual_error else 0.0
            distance = slower / (math.sqrt(usual**2 + doubt) if doubt else usual)
            off = devices[model, owner]
            off.distances.append(distance)
            off.slower.append(slower)
            if distance >= nearest and (
                one := _straggler(owners[owner], quantity[0], slower, distance, spread, sizes[owners[owner][0]])
            ):
                stragglers.append({**one, **_in_unit(quantity, log, spread)})
    stragglers += _together(devices, owners, {host: _TOGETHER * len(one.devices) for host, one in numbers.items()})
    stragglers.sort(key=lambda entry: (-entry["effect"], entry["host"], entry["device"] or "", entry["measurement"]))
    return {"stragglers": stragglers, "spreads": spreads}


def _collect(numbers: Mapping[str, Numbers]) -> tuple[list[Owner], dict[Quantity, _Values]]:
    """Every device, as host and name, and the values of each quantity."""
    owners: list[Owner] = []
    quantities: dict[Quantity, _Values] = defaultdict(_Values)
    for host in sorted(numbers):
        found, first = numbers[host], len(owners)
        owners += [(host, device) for device in found.devices]
        places = [(quantities[key], 1.0 if key[1] == "s" else -1.0) for key in found.quantities]
        columns = zip(found.quantity, found.device, found.value, found.half_width, strict=True)
        for quantity, device, value, half_width in columns:
            values, sign = places[quantity]
            values.owners.append(first + device)
            values.logs.append(sign * math.log(value))
            # Half of a confidence interval of 95 % is two standard errors.
            values.errors.append(min(1.0, half_width / 2 / value) if math.isfinite(half_width) else 1.0)
    return owners, quantities


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


def _together(
    devices: Mapping[tuple[str, int], _Offs], owners: Sequence[Owner], sizes: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Devices that are slower in nearly everything, by the middle of how far off they are."""
    by_model: dict[str, list[tuple[Owner, float, float]]] = defaultdict(list)
    for (model, owner), off in devices.items():
        if len(off.distances) >= _FEWEST_TOGETHER:
            # The one of which three quarters are further out: one slow quantity is not most of them.
            consistent = sorted(off.distances)[int((1 - _CONSISTENTLY) * len(off.distances))]
            slower = _middle(off.slower) if consistent > 0 else 0.0
            by_model[model].append((owners[owner], _middle(off.distances), slower))
    for entries in by_model.values():
        if len(entries) < FEWEST:
            continue
        spread = estimate([distance for _, distance, _ in entries])
        for device, distance, slower in entries:
            far = (distance - spread.middle) / spread.deviation
            if one := _straggler(device, OVERALL, slower, far, spread, sizes[device[0]]):
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
