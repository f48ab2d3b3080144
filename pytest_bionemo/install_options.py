"""How to get BioNeMo on this machine, where none of it is installed: what works here, and what does not and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packaging.specifiers import SpecifierSet

from pytest_bionemo import fixes, rules
from pytest_bionemo.facts import drivers, family, targets, versions
from pytest_bionemo.facts.family import Container
from pytest_bionemo.model import GpuEnv
from pytest_bionemo.probes import packages
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild

_RECIPES = "recipes (ESM-2, Evo2, Geneformer, CodonFM, Llama 3)"


def lines(machine: Machine) -> list[str]:
    """The options, A to C, a line each or more; one that begins with ``$ `` is a command to type."""
    host, env = machine.host, machine.gpu_env
    return [*_recipes(host, env), *_pip(host, env, machine.torch_build), *_framework(host, env)]


# ------------------------------------------------------------------------------------ A: recipes from a checkout


def _recipes(host: Host, env: GpuEnv) -> list[str]:
    image, packaged = family.containers()["recipes"], family.pip_set()
    if no_gpu := _gpu_problem(env):
        return [f"not A, the {_RECIPES}: {no_gpu}"]
    no_container, no_pip = _image_problem(image, host, env), _pip_problem(packaged, host, env)
    if no_container and no_pip:
        return [f"not A, the {_RECIPES}: {no_container}; without a container, {no_pip}"]
    repository = family.repository()
    return [
        f"A: the {_RECIPES}, from a checkout:",
        f"$ git clone {repository['url']}",
        f"then in the folder of a recipe, such as {repository['recipes']}/{repository['example']},",
        *([f"not in its container: {no_container}"] if no_container else _in_container(image, host, env)),
        *([f"not without a container: {no_pip}"] if no_pip else _without_container(packaged)),
    ]


def _gpu_problem(env: GpuEnv) -> str | None:
    least = min(target.recipe.least_capability() for target in targets.targets())
    if not env.capabilities or env.capabilities[0] >= least:
        return None
    weakest, needed = ("{}.{}".format(*capability) for capability in (env.capabilities[0], least))
    return f"they train in bf16, which needs compute capability {needed}; a GPU here has {weakest}"


def _in_container(image: Container, host: Host, env: GpuEnv) -> list[str]:
    example = family.repository()["example"]
    return [
        f"{_where(host)}build and start its container:",
        f"$ docker build -t {example} .",
        f'$ docker run --rm -it {image.flags} -v "$PWD":/recipe -w /recipe {example}',
        *_compat(image, env),
    ]


def _compat(image: Container, env: GpuEnv) -> list[str]:
    if not _driver_problem(image.cuda, env):
        return []
    return [
        f"its CUDA {image.cuda} needs the cuda-compat that it brings, for driver {env.driver} is older: whether that "
        "is one of those which NVIDIA supports, the release notes of the image tell"
    ]


def _without_container(packaged: Mapping[str, Any]) -> list[str]:
    return [
        f"or without one, with the CUDA {packaged['cuda']} toolkit (nvcc): install torch {packaged['torch']} from "
        f"the PyTorch wheel index, channel {packaged['channel']}, then",
        f'$ pip install --no-build-isolation "flash-attn{packaged["flash_attn"]}"',
        f'$ pip install --no-build-isolation "transformer-engine[pytorch]=={packaged["transformer_engine"]}"',
        "$ pip install -r requirements.txt",
    ]


def _pip_problem(packaged: Mapping[str, Any], host: Host, env: GpuEnv) -> str | None:
    if host.python not in SpecifierSet(packaged["python"], prereleases=True):
        return f"it is for Python {packaged['python'].lstrip('=')}, this is {host.python}"
    return _driver_problem(packaged["cuda"], env)


# --------------------------------------------------------------------------------------- B: core and tooling


def _pip(host: Host, env: GpuEnv, torch: TorchBuild) -> list[str]:
    names = [known.name for known in family.installable(host.python, host.machine)]
    left_out = [
        f"without {known.name}: {obstacle}"
        for known in family.packages()
        if known.named and known.on_pypi and (obstacle := known.obstacle(host.python, host.machine))
    ]
    if not names:
        return [f"not B, core and tooling with pip: no package is for Python {host.python} on {host.machine}"]
    quoted = [f'"{requirement}"' for requirement in family.together(names)]
    return [
        "B: core and tooling with pip, in a fresh environment or this one:",
        *([] if torch.is_installed else fixes.install_torch(env, host)),
        f"$ pip install {' '.join([*names, *quoted])}",
        *_replaced_numpy(names),
        *left_out,
    ]


def _replaced_numpy(names: list[str]) -> list[str]:
    numpy = packages.version("numpy")
    if "bionemo-moco" not in names or not versions.admits(">=2", numpy):
        return []
    return [f"it replaces numpy {numpy} by one below 2, which bionemo-moco needs: leave that out to keep yours"]


# ------------------------------------------------------------------------------------ C: the framework container


def _framework(host: Host, env: GpuEnv) -> list[str]:
    image = family.containers()["framework"]
    if problem := _image_problem(image, host, env):
        return [f"not C, the framework container: {problem}"]
    return [
        f"C: {_where(host)}the framework container ({image.holds}):",
        f"$ docker run --rm -it {image.flags} {image.image}",
    ]


def _image_problem(image: Container, host: Host, env: GpuEnv) -> str | None:
    if host.machine not in image.machines:
        return f"{image.image} is for {' and '.join(image.machines)}, this is {host.machine}"
    problem = _driver_problem(image.cuda, env)
    lifted = image.compat_driver and env.driver and not drivers.is_older(env.driver, image.compat_driver)
    return None if lifted and env.gpus and rules.are_data_centre_gpus(env) else problem


def _driver_problem(cuda: str, env: GpuEnv) -> str | None:
    needed = drivers.family_minimum(cuda)
    if env.driver is None or needed is None or not drivers.is_older(env.driver, needed):
        return None
    return f"CUDA {cuda} needs driver {needed} or newer, this is {env.driver}"


def _where(host: Host) -> str:
    return "on the host, not in this container, " if host.container else ""
