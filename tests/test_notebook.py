"""The example notebook, executed by a real kernel: one that has imported torch before, and holds memory of a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import Rig
from standin import H100x8, Libraries
from standin.environment import Environment

NOTEBOOK = Path(__file__).parents[1] / "examples" / "readiness.ipynb"
# In a process of its own: what an event loop and a notebook's client warn of is not ours.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = NotebookClient(notebook, kernel_name="node", timeout=120, allow_errors=True)
client.execute(cwd=sys.argv[2])
nbformat.write(notebook, sys.argv[3])
"""


@pytest.fixture
def notebook_rig(libraries: Libraries, tmp_path: Path) -> Rig:
    """A machine whose environment has torch, pandas and a kernel."""
    for name in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(name, reason="one environment is enough to execute the notebook in")
    packages = ["pytest-bionemo", "torch", "ipykernel", "pandas"]
    return Rig(Environment.create(tmp_path, packages), libraries, tmp_path)


def executed(rig: Rig) -> dict[str, Any]:
    """The notebook with the outputs of its cells, by a kernel of this machine."""
    kernel = rig.folder / "jupyter" / "kernels" / "node"
    kernel.mkdir(parents=True)
    variables = {"HOME": str(rig.folder / "home"), "TMPDIR": str(rig.folder / "tmp"), **rig.environ()}
    command = [str(rig.environment.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": command, "display_name": "node", "language": "python", "env": variables}
    (kernel / "kernel.json").write_text(json.dumps(specification))
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(rig.project), str(rig.folder / "done.ipynb")],
        env={**os.environ, "JUPYTER_PATH": str(rig.folder / "jupyter"), "HOME": str(rig.folder / "home")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    notebook: dict[str, Any] = json.loads((rig.folder / "done.ipynb").read_text())
    return notebook


def test_the_notebook_shows_what_the_machine_lacks(notebook_rig: Rig) -> None:
    notebook_rig.node = H100x8  # and the torch of the tests, which is built for no GPU
    asked, validated, shown, table, condition = (
        cell for cell in executed(notebook_rig)["cells"] if cell["cell_type"] == "code"
    )
    assert asked["outputs"][-1]["data"]["text/plain"] == ["1048576.0"]
    streamed = "".join("".join(output["text"]) for output in validated["outputs"])
    assert "bionemo/driver" in streamed
    assert "BioNeMo readiness: BLOCKED" in streamed
    (output,) = shown["outputs"]
    html, text = ("".join(output["data"][kind]) for kind in ("text/html", "text/plain"))
    for said in (html, text):
        assert "BLOCKED" in said
        assert "bionemo/torch::is_cuda_build" in said
    assert "8 x NVIDIA H100 80GB HBM3" in html
    assert "<script" not in html
    assert "driver" in "".join(table["outputs"][0]["data"]["text/plain"])
    (error,) = condition["outputs"]
    assert error["ename"] == "NotReady"
    assert error["evalue"].startswith("BLOCKED at level quick: 1 blocker\nbionemo/torch::is_cuda_build: ")
    assert not list(notebook_rig.project.iterdir())


def test_the_notebook_holds_no_output_and_names_no_machine() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert [cell["outputs"] or cell["execution_count"] for cell in cells] == [None] * len(cells)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
