"""What the plugin costs a run that does not ask for it: nothing that can be noticed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_bionemo
from conftest import Rig
from standin import H100x8
from standin.torch_package import StandinTorch

HEAVY = {"torch", "pynvml", "lightning", "pytorch_lightning", "numpy", "transformers", "pandas"}
# What a run that does not ask for the plugin may load of it.
DOOR = {
    "pytest_bionemo",
    "pytest_bionemo.plugin",
    "pytest_bionemo.options",
    "pytest_bionemo.terms",
    "pytest_bionemo.fixtures",
    "pytest_bionemo.hookspec",
}
# As a plugin, so that nothing but it is written; at the very end of the process.
SPY = """
import atexit, json, os, sys
from pathlib import Path
atexit.register(lambda: Path(os.environ["SPY"] + "." + str(os.getpid())).write_text(json.dumps(sorted(sys.modules))))
"""


def modules_after(rig: Rig, *arguments: str) -> list[set[str]]:
    """The modules that each process of a run of pytest had loaded at its end."""
    rig.site.joinpath("standin_spy.py").write_text(SPY)
    rig.variables["SPY"] = str(rig.folder / "modules")
    rig.pytest("-p", "standin_spy", *arguments)
    found = [set(json.loads(path.read_text())) for path in rig.folder.glob("modules.*")]
    assert found
    return found


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "pytest_bionemo"}


@pytest.mark.parametrize("arguments", [("--co",), (), ("--help",), ("--markers",), ("--fixtures",)], ids=str)
def test_a_run_that_asks_for_nothing_loads_only_the_door(torch_rig: Rig, arguments: tuple[str, ...]) -> None:
    (modules,) = modules_after(torch_rig, *arguments)
    assert HEAVY & modules == set()
    assert "pytest_bionemo.plugin" in modules
    assert ours(modules) <= DOOR


def test_a_suite_that_runs_loads_only_the_door(torch_rig: Rig) -> None:
    torch_rig.write("test_user.py", "def test_of_the_user(): pass")
    (modules,) = modules_after(torch_rig)
    assert HEAVY & modules == set()
    assert ours(modules) <= DOOR


@pytest.mark.parametrize("arguments", [(), ("--co",), ("-n", "2")], ids=str)
def test_a_validation_loads_neither_torch_nor_nvml_in_pytest(healthy_rig: Rig, arguments: tuple[str, ...]) -> None:
    every = modules_after(healthy_rig, "--bionemo-validate", *arguments)
    assert [HEAVY & modules for modules in every] == [set()] * len(every)
    assert all("pytest_bionemo.validation" in modules for modules in every)


def test_the_real_torch_is_not_loaded_either(torch_rig: Rig) -> None:
    torch_rig.node = H100x8
    (modules,) = modules_after(torch_rig, "--bionemo-validate")
    assert HEAVY & modules == set()


def test_a_rehearsal_works_outside_of_pytest(compute_rig: Rig) -> None:
    ids = ("bionemo/torch::computes", "bionemo/forward::small_encoder_agrees", "bionemo/forward::esm2_builds")
    (modules,) = modules_after(compute_rig, "--bionemo-validate", "--bionemo-device=cpu", *ids)
    assert HEAVY & modules == set()
    assert "pytest_bionemo.compute" in modules


def test_a_stand_in_torch_would_be_noticed(rig: Rig) -> None:
    rig.torch = StandinTorch()
    rig.write("test_user.py", "import torch\ndef test_of_the_user(): pass")
    (modules,) = modules_after(rig)
    assert HEAVY & modules == {"torch"}


def in_fresh_python(script: str) -> object:
    root = Path(pytest_bionemo.__file__).parents[1]
    setup = f"import sys; sys.path.insert(0, {str(root)!r}); before = set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", setup + script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    script = "import pytest_bionemo; new = set(sys.modules) - before; import json; print(json.dumps(sorted(new)))"
    loaded = in_fresh_python(script)
    assert isinstance(loaded, list)
    assert [name for name in loaded if name.startswith(("pytest", "_pytest", "packaging"))] == ["pytest_bionemo"]
    assert not HEAVY & set(loaded)


def test_every_public_name_resolves_to_what_it_names() -> None:
    for name in pytest_bionemo.__all__:
        value = getattr(pytest_bionemo, name)
        assert value.__name__ == name
        assert value is getattr(importlib.import_module(value.__module__), name)
    assert len(set(pytest_bionemo.__all__)) == len(pytest_bionemo.__all__)


def test_dir_lists_every_public_name_before_it_was_used() -> None:
    listed = in_fresh_python("import pytest_bionemo, json; print(json.dumps(dir(pytest_bionemo)))")
    assert isinstance(listed, list)
    assert set(pytest_bionemo.__all__) <= set(listed)
    assert listed == sorted(listed)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pytest_bionemo' has no attribute 'no_such_name'"):
        pytest_bionemo.no_such_name  # noqa: B018
    with pytest.raises(ImportError):
        exec("from pytest_bionemo import no_such_name")


def test_a_star_import_gives_every_public_name() -> None:
    script = "names = {}; exec('from pytest_bionemo import *', names); import json; print(json.dumps(sorted(names)))"
    names = in_fresh_python(script)
    assert isinstance(names, list)
    assert set(names) - {"__builtins__"} == set(pytest_bionemo.__all__)
