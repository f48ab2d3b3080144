"""What a check may ask for.

Each fixture here gives what another check establishes, and says so when it is not there: *not run: waits for
driver::loads*. That is decided from what the probes see, never from another check's outcome, so it holds
under ``-k``, ``-n``, ``--lf`` and in any order. The fixtures are registered on the suite: no conftest can
shadow them, and no test outside the suite sees them.
"""

from __future__ import annotations

from pytest_bionemo.needs import bionemo_packages, devices, hardware, meetings, platforms, pytorch

MODULES = (hardware, pytorch, devices, meetings, platforms, bionemo_packages)
"""The modules of the fixtures."""
