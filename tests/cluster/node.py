"""One node of a rehearsed cluster: does workloads for the test that started it, one line of JSON a request.

python node.py [NUMBER OF DEVICES]
"""

from __future__ import annotations

import json
import sys

from pytest_bionemo.desk import Desk
from pytest_bionemo.worker import Device, Workers, WorkloadFailed


def main() -> None:
    """Answer until there are no more requests."""
    devices = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    workers = Workers([Device.cpu(f"cpu{index}") for index in range(devices)], timeout=60)
    desk: Desk | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "desk" in request:
            desk = Desk(**request["desk"])
            answer: object = {"port": desk.port}
        else:
            answer = [_run(workers, label, request) for label in workers.labels]
        print(json.dumps(answer), flush=True)
    workers.close()
    if desk:
        desk.close()


def _run(workers: Workers, label: str, request: dict[str, object]) -> dict[str, object]:
    try:
        return dict(workers.run(label, str(request["workload"]), **request["parameters"]))  # type: ignore[arg-type]
    except WorkloadFailed as error:
        return {"failed": str(error), "blames": error.blames}


if __name__ == "__main__":
    main()
