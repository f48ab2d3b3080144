"""Fixtures for everybody's tests, and the one Machine that they share with the checks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_bionemo.ceiling import MemoryCeiling
    from pytest_bionemo.measuring import Measure
    from pytest_bionemo.model import Gpu, GpuEnv
    from pytest_bionemo.probes.bionemo import BionemoPackage, Family
    from pytest_bionemo.probes.machine import Machine

MACHINE: pytest.StashKey[Machine] = pytest.StashKey()
ENVIRONMENT: pytest.StashKey[dict[str, str]] = pytest.StashKey()
"""The variables when the tests had been collected: no test that changes one has a say in what others see."""
_FAMILY: pytest.StashKey[Family] = pytest.StashKey()


def machine_of(config: pytest.Config) -> Machine:
    """The probes of this run, made on first use."""
    # Imported here: a run that asks for nothing of ours pays nothing.
    from pytest_bionemo import options
    from pytest_bionemo.probes.machine import Machine

    if MACHINE not in config.stash:
        config.stash[MACHINE] = Machine(options.read(config).timeout, config.stash.get(ENVIRONMENT, None))
    return config.stash[MACHINE]


def family_of(config: pytest.Config) -> Family:
    """The BioNeMo packages of this environment, made on first use, gone with the run."""
    from pytest_bionemo import options
    from pytest_bionemo.probes.bionemo import Family

    if _FAMILY not in config.stash:
        is_validated = validates(config)
        # In a process of pytest-xdist each is imported when it is asked for: another one asks for the others. And a
        # suite of somebody asks for what it needs.
        ahead = is_validated and not hasattr(config, "workerinput")
        timeout = options.read(config).timeout
        config.stash[_FAMILY] = Family(timeout, machine_of(config).environment, ahead=ahead, trials=is_validated)
        config.add_cleanup(config.stash[_FAMILY].close)
    return config.stash[_FAMILY]


def validates(config: pytest.Config) -> bool:
    """Whether this run writes a report."""
    return config.pluginmanager.hasplugin("bionemo_validation")


@pytest.fixture(scope="session")
def gpu_env(request: pytest.FixtureRequest) -> GpuEnv:
    """What the NVIDIA driver says about this machine: driver, CUDA, and every GPU. Frozen data.

    It is asked once, in a child process: no CUDA context is opened here, and nothing is imported. Without a
    driver, ``gpu_env.gpus`` is empty and ``gpu_env.failure`` says why.
    """
    return machine_of(request.config).gpu_env


@pytest.fixture(scope="session")
def bionemo_pkg(request: pytest.FixtureRequest) -> Callable[..., BionemoPackage]:
    """Skip the test unless this BioNeMo package is installed, in a version that fits, and imports.

    ``scdl = bionemo_pkg("bionemo-scdl", ">=0.1")``, then ``scdl.module`` is the imported package, ``scdl.version``
    its version. Why the test was skipped is one line: what to install, which version is there, or the first cause
    why a module that the package is made of does not import. With ``--bionemo-strict`` the test fails instead.

    The import is tried in a process of its own first, once a run: a library that crashes there ends no more than
    that process. Here nothing is imported before ``scdl.module`` is asked for. A pre-release counts as the version
    that it is. A name that is no BioNeMo package is a LookupError, a specifier that is none a ValueError.
    """
    from pytest_bionemo.markers import skip_or_fail
    from pytest_bionemo.probes.bionemo import specifier_of

    def get(name: str, specifier: str | None = None) -> BionemoPackage:
        __tracebackhide__ = True
        wanted = specifier_of(name, specifier)
        package = family_of(request.config).package(name)
        if obstacle := package.obstacle(wanted):
            skip_or_fail(request.config, obstacle)
        return package

    return get


@pytest.fixture(scope="session")
def run_in_worker(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a function of a test module in a process of its own, with a deadline.

    ``loss = run_in_worker(train, 5, timeout=60, device=freest_gpu)`` calls ``train(5)`` there and gives what it
    returns; what it raises is raised here, ``pytest.skip`` too, with the traceback of the child as its cause. A
    child that exits, crashes, is killed or misses the deadline is a ``WorkloadFailed`` (of ``pytest_bionemo``) of
    one line. With the child, also when it returns, ends all that it has started in its process group; what makes a
    group of its own (``start_new_session=True``) is the function's to end. What it prints is shown as what the test
    prints.

    ``timeout`` is in seconds from the start of the process, its imports included (default: --bionemo-timeout).
    ``device`` is what the function sees: a Gpu of ``gpu_env.gpus``, the UUID of one or of a MIG slice, "cpu" for no
    GPU; unless given, all that this process sees. A function's own argument of one of these two names is given by
    its place.

    The function stands at the top of a module, which the child imports anew: no lambda, nothing defined inside a
    function. It sees this ``sys.argv``, and the options of this interpreter hold. Arguments and result are pickled; a
    tensor of a GPU is refused, since reading it would open a CUDA context here. Assertions in the child are Python's
    own: give them a message.
    """
    from pytest_bionemo import isolation, options
    from pytest_bionemo.choosing import device_for

    def run(
        function: Callable[..., Any],
        /,
        *arguments: Any,
        timeout: float | None = None,
        device: Any = None,
        **keywords: Any,
    ) -> Any:
        __tracebackhide__ = True
        settings = options.read(request.config)
        place = device_for(device, machine_of(request.config), settings)
        seconds = settings.timeout if timeout is None else timeout
        return isolation.run(function, arguments, keywords, seconds, place)

    return run


@pytest.fixture
def freest_gpu(request: pytest.FixtureRequest) -> Gpu:
    """The GPU with the most free memory, of those that CUDA_VISIBLE_DEVICES leaves visible.

    The driver is asked anew for each test, in a child process. ``run_in_worker(train, device=freest_gpu)`` runs a
    function on it. Without a GPU that answers the test is skipped; with ``--bionemo-strict`` it fails. Processes of
    pytest-xdist choose each for itself, and may choose the same.
    """
    from pytest_bionemo import options
    from pytest_bionemo.choosing import NoGpu, freest
    from pytest_bionemo.markers import skip_or_fail

    try:
        return freest(machine_of(request.config), options.read(request.config))
    except NoGpu as error:
        reason = str(error)
    skip_or_fail(request.config, reason)


@pytest.fixture(scope="session")
def memory_ceiling(request: pytest.FixtureRequest) -> MemoryCeiling:
    """Fail if a block of a test allocates more memory on the GPU than this.

    ``with memory_ceiling("2 GiB") as block:`` takes a number of bytes, or text with a unit (B, kB, MB, GB, TB, KiB,
    MiB, GiB, TiB); afterwards ``block.peak_bytes`` is what was allocated at most. It is the count of torch's own
    allocator in this process (``torch.cuda.max_memory_allocated``), what was allocated before the block included:
    neither the CUDA context nor what other libraries and processes take. A block that allocates nothing at all
    fails too. Do not reset torch's peak inside it.

    ``device`` is as torch names it, unless given the current CUDA device. Torch has to be imported before; CUDA is
    not started here. Where torch can use no GPU the test is skipped, with ``--bionemo-strict`` it fails.
    ``device="cpu"``, which ``--bionemo-device cpu`` makes the default, is a rehearsal: it counts the storages of all
    tensors that operators return in the block, in its own thread alone, and says nothing of a GPU.

    ``run_in_worker(train, memory_ceiling)`` hands it to a function in a process of its own.
    """
    from pytest_bionemo import options
    from pytest_bionemo.ceiling import MemoryCeiling

    settings = options.read(request.config)
    return MemoryCeiling(strict=settings.strict, rehearse=settings.device == "cpu")


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Record a number that the test has measured.

    ``measure("step_time", 0.12, "s", device=freest_gpu)`` comes as the property ``step_time [s] on GPU-...`` of the
    test into JUnit XML, pytest-json-report and what else reads ``user_properties``. With ``--bionemo-validate`` it is
    in the ``measurements`` of the report too, with the id of the test, and ``-v`` shows it at the end.

    The name is of small letters, digits and underscores; a value that is no finite number is a ValueError. What is
    measured in ``run_in_worker`` is returned from there, and recorded in the test.
    """
    from pytest_bionemo.measuring import Measure

    nodeid = request.node.nodeid if validates(request.config) else None
    return Measure(request.node.user_properties, nodeid)


@pytest.fixture(scope="session")
def lightning_trainer_args() -> dict[str, Any]:
    """Arguments of every Trainer that ``lightning_trainer`` makes. Override it in a conftest.py.

    They win over the defaults (see there); what a test passes wins over both.
    """
    return {}


@pytest.fixture
def lightning_trainer(
    lightning_trainer_args: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Any]]:
    """Make quiet Trainers of Lightning.

    ``trainer = lightning_trainer(max_steps=5, precision="bf16-mixed")``: the arguments are the Trainer's own. By
    default: one device (the first GPU, else the CPU), no logger, no checkpoints, no progress bar, no model summary,
    no sanity steps; whatever is written is below ``tmp_path``. For the rest of the test Lightning logs warnings
    alone, and none of its advice and of its own outdated calls of torch is shown.

    It is the Trainer of the package that was imported before, ``lightning`` or ``pytorch_lightning``, and of
    ``lightning`` where that tells nothing. Where neither is installed the test is skipped; with ``--bionemo-strict``
    it fails.
    """
    from pytest_bionemo.markers import skip_or_fail
    from pytest_bionemo.workloads.lightning_trainer import hide_advice, make_trainer, quiet

    names = _installed_lightning()
    if not names:
        reason = "neither lightning nor pytorch-lightning is installed: pip install pytorch-lightning"
        skip_or_fail(request.config, reason)
    with ExitStack() as stack:

        def make(**arguments: Any) -> Any:
            lightning = import_module(next((name for name in names if name in sys.modules), names[0]))
            stack.enter_context(quiet(lightning))
            hide_advice(lightning)
            return make_trainer(lightning, tmp_path, **{**lightning_trainer_args, **arguments})

        yield make


def _installed_lightning() -> list[str]:
    from pytest_bionemo.facts import lightning
    from pytest_bionemo.probes import packages

    return [module for name, module in lightning.modules().items() if packages.find(name)]
