"""Rules of compatibility, and which BioNeMo packages a machine can install."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_bionemo.facts import drivers, family
from pytest_bionemo.facts.family import FamilyPackage
from pytest_bionemo.model import Gpu, GpuEnv
from pytest_bionemo.probes import host
from pytest_bionemo.probes.libraries import CudaLibrary
from pytest_bionemo.probes.torch_build import TorchBuild, TorchDevice
from pytest_bionemo.rules import (
    LibcudaProblem,
    driver_runs,
    effective_driver,
    has_torch_glibc,
    libcuda_problem,
)

GIB = 1 << 30
H100 = Gpu(0, name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB)
RTX4090 = Gpu(1, name="NVIDIA GeForce RTX 4090", memory_bytes=24 * GIB)
RTXA6000 = Gpu(2, name="NVIDIA RTX A6000", memory_bytes=48 * GIB)
UNKNOWN = Gpu(3, name="NVIDIA Z9", memory_bytes=80 * GIB)
NAMELESS = Gpu(4)
DEVICE = TorchDevice("GPU-1", "NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB)


@pytest.mark.parametrize(
    ("driver", "cuda", "runs"),
    [
        ("580.95.05", "13.0", True),
        ("580", "13.0", True),
        ("579.99", "13.0", False),
        ("550.144.03", "13.0", False),
        ("550.144.03", "12.8", True),
        ("525.60.13", "12.8", True),
        ("525", "12.8", True),
        ("524.99", "12.8", False),
        ("470.256.02", "11.8", True),
        ("999.0", "99.0", None),
        (None, "13.0", None),
    ],
)
def test_the_minimum_of_the_family_decides(driver: str | None, cuda: str, runs: bool | None) -> None:
    assert driver_runs(GpuEnv(driver=driver), TorchBuild(cuda=cuda), None) is runs


@pytest.mark.parametrize("cuda", ["13.0", "99.0"])
@pytest.mark.parametrize("driver", ["450.80.02", None])
def test_a_torch_that_sees_its_devices_proves_more_than_a_table(driver: str | None, cuda: str) -> None:
    assert driver_runs(GpuEnv(driver=driver), TorchBuild(cuda=cuda, devices=(DEVICE,)), None) is True


def test_the_rule_follows_the_table_of_drivers() -> None:
    minimum = drivers.family_minimum("13.0")
    assert minimum is not None
    assert driver_runs(GpuEnv(driver=minimum), TorchBuild(cuda="13.2"), None) is True


@pytest.mark.parametrize(
    ("found", "gpu", "runs"),
    [
        ("580.65.06", "H100", True),
        ("575.57.08", "H100", False),  # not new enough itself
        ("580.65.06", "RTX4090", False),  # not for this GPU
        (None, "H100", False),
    ],
)
def test_a_fitting_libcuda_counts_before_the_driver(found: str | None, gpu: str, runs: bool) -> None:
    env = GpuEnv(driver="550.144.03", gpus=({"H100": H100, "RTX4090": RTX4090}[gpu],))
    assert driver_runs(env, TorchBuild(cuda="13.0"), library(found)) is runs


def test_the_newer_of_driver_and_libcuda_is_what_programs_get() -> None:
    env, seeing = GpuEnv(driver="580.95.05", gpus=(H100,)), TorchBuild(cuda="13.0", devices=(DEVICE,))
    assert effective_driver(env, seeing, library("595.45.04")) == "595.45.04"
    assert effective_driver(env, seeing, library("550.54.15")) == "580.95.05"
    assert effective_driver(env, seeing, None) == "580.95.05"


@pytest.mark.parametrize(
    ("glibc", "is_new_enough"),
    [("2.28", True), ("2.36-9+deb12", True), ("2.17", False), ("2.5", False), ("odd", False), (None, False)],
)
def test_glibc_is_compared_by_its_numbers(glibc: str | None, is_new_enough: bool) -> None:
    assert has_torch_glibc(replace(host.read(), glibc=glibc)) is is_new_enough


DRIVER = "570.133.20"


def library(version: str | None, is_stub: bool = False) -> CudaLibrary:
    return CudaLibrary(Path("/x/libcuda.so.1"), version, is_stub)


@pytest.mark.parametrize(
    ("found", "driver", "gpus", "problem"),
    [
        (None, DRIVER, [RTX4090], None),
        (library(None), DRIVER, [RTX4090], None),
        (library(DRIVER), DRIVER, [RTX4090], None),
        (library("570.133.19"), DRIVER, [H100], LibcudaProblem.STALE),
        (library("550.54.14"), DRIVER, [], LibcudaProblem.STALE),
        (library("550.54.14"), None, [H100], None),
        (library("580.95.05"), DRIVER, [H100], None),
        (library("580.95.05"), DRIVER, [H100, H100], None),
        (library("580.95.05"), DRIVER, [RTX4090], LibcudaProblem.FORWARD_COMPATIBILITY_UNSUPPORTED),
        (library("580.95.05"), DRIVER, [H100, RTX4090], LibcudaProblem.FORWARD_COMPATIBILITY_UNSUPPORTED),
        (library("580.95.05"), DRIVER, [RTXA6000], LibcudaProblem.FORWARD_COMPATIBILITY_UNSUPPORTED),
        (library("580.95.05"), DRIVER, [UNKNOWN, NAMELESS], None),
        (library(None, is_stub=True), DRIVER, [H100], LibcudaProblem.STUB),
        (library(DRIVER, is_stub=True), None, [], LibcudaProblem.STUB),
    ],
)
def test_a_foreign_libcuda_is_judged_by_driver_and_gpus(
    found: CudaLibrary | None, driver: str | None, gpus: list[Gpu], problem: LibcudaProblem | None
) -> None:
    env = GpuEnv(driver=driver, gpus=tuple(gpus))
    assert libcuda_problem(found, env, TorchBuild()) is problem
    # What torch has used is fit to be used.
    assert libcuda_problem(found, env, TorchBuild(devices=(DEVICE,))) is None


def package(name: str) -> FamilyPackage:
    return next(package for package in family.packages() if package.name == name)


@pytest.mark.parametrize(
    ("name", "python", "machine", "installs"),
    [
        ("bionemo-core", "3.11.7", "x86_64", True),
        ("bionemo-core", "3.13.0", "aarch64", True),
        ("bionemo-core", "3.9.18", "x86_64", False),
        ("bionemo-core", "3.14.0rc1", "x86_64", True),
        ("bionemo-noodles", "3.10.13", "x86_64", True),
        ("bionemo-noodles", "3.12.1", "x86_64", True),
        ("bionemo-noodles", "3.13.0", "x86_64", False),
        ("bionemo-noodles", "3.12.1", "aarch64", False),
        ("bionemo-noodles", "3.1.0", "x86_64", False),
        ("bionemo-llm", "3.11.7", "x86_64", False),
        ("bionemo-evo2", "3.11.7", "x86_64", False),
        ("bionemo-geneformer", "3.11.7", "x86_64", False),
    ],
)
def test_a_package_installs_where_a_working_wheel_fits(name: str, python: str, machine: str, installs: bool) -> None:
    assert package(name).installs_on(python, machine) is installs


def test_a_package_that_is_alive_but_not_published_installs_nowhere() -> None:
    unpublished = FamilyPackage("x", "x", "x", False, ">=3.10", (), "alive", "x")
    assert not unpublished.installs_on("3.11.7", "x86_64")


def test_what_can_be_installed_is_a_part_of_the_family() -> None:
    names = [found.name for found in family.installable("3.11.7", "x86_64")]
    assert names == ["bionemo-core", "bionemo-scdl", "bionemo-moco", "bionemo-noodles"]
    assert "bionemo-noodles" not in [found.name for found in family.installable("3.13.0", "x86_64")]
    assert family.packages() is family.packages()
    assert package("bionemo-core").import_name == "bionemo.core"


def test_a_package_is_found_by_its_name() -> None:
    assert family.find("bionemo-evo2").on_pypi is False
    with pytest.raises(LookupError, match="nobody is not in the table"):
        family.find("nobody")
