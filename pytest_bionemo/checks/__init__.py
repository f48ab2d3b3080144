"""The shipped checks: one module, or package, is one topic, one section of the report, one line on the terminal."""

from __future__ import annotations

import pkgutil

# The order on the screen. A topic that is not named here comes after these.
_ORDER = (
    "host",
    "platform",
    "driver",
    "health",
    "torch",
    "numerics",
    "precision",
    "forward",
    "lightning",
    "benchmark",
    "interconnect",
    "collectives",
    "training",
    "stack",
    "packages",
)


def shipped() -> list[str]:
    """The dotted names of the shipped check modules, in the order in which they run."""
    topics = [module.name for module in pkgutil.iter_modules(__path__)]
    ordered = [topic for topic in _ORDER if topic in topics]
    return [f"{__name__}.{topic}" for topic in [*ordered, *sorted(set(topics) - set(ordered))]]
