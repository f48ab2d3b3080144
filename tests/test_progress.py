"""Live progress, on a real terminal: what people see meanwhile, and that it leaves no trace."""

from __future__ import annotations

import pytest

from conftest import Rig
from terminals import Seen, Terminal, watch

# Checks of somebody else, which wait for a workload that sleeps: no torch has to be imported for that.
CHECKS = {
    "slow_plugin.py": """
        def pytest_bionemo_checks(config):
            return ["slow_checks"]
        """,
    "slow_checks.py": """
        import pytest
        from pytest_bionemo import check


        @check()
        @pytest.mark.parametrize("number", range(3))
        def are_quick(number):
            "They are quick."


        @check()
        @pytest.mark.parametrize("label", ["cpu0", "cpu1"])
        def sleeps(workers, label):
            "It sleeps."
            print("in the test")
            numbers = workers.run(label, "slow_work:run", seconds=2.5)
            assert numbers["slept"] == 2.5


        @check()
        def ends():
            "It ends."
        """,
    "slow_work.py": """
        import os
        import time
        from pytest_bionemo.workloads import NAME


        def run(seconds):
            print("in the worker", flush=True)
            time.sleep(seconds if os.environ[NAME] == "cpu1" else seconds / 2)
            return {"slept": seconds}
        """,
}
OPTIONS = ("-p", "slow_plugin", "--bionemo-device=cpu", "--bionemo-expect-gpus=2", "bionemo/slow_checks")
