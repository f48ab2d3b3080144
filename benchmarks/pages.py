"""What a page costs, from a saved document to a file: ``python benchmarks/pages.py REPORT [FLEET]``.

REPORT is one of real size (``pytest --bionemo-validate --bionemo-device cpu --bionemo-expect-gpus 8`` writes one of
1 MB), FLEET the document of a fleet of 1,000 nodes. Each is the whole command, a start of Python included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from _measure import measure, python, report

_MB = 1e6
# Of a node, and of a fleet: seconds, and megabytes of the page.
LIMITS = {"node": (1.0, 1.0), "fleet": (10.0, 10.0)}


def main() -> int:
    """Measure and compare; returns 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("fleet", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, document in (("node", options.report), ("fleet", options.fleet)):
            if document is None:
                continue
            page = Path(folder, f"{kind}.html")
            command = python("-m", "pytest_bionemo", "html", str(document.resolve()), "-o", str(page))
            cost = measure({kind: command}, options.rounds)[kind]
            seconds, size = LIMITS[kind]
            kept += [
                report(f"page of a {kind}", cost.seconds, seconds, " s"),
                report(
                    f"its size, of {document.stat().st_size / _MB:.1f} MB", page.stat().st_size / _MB, size, " MB"
                ),
            ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
