"""What installed distributions require of each other, and which of it somebody really needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pytest_bionemo.probes import requirements
from pytest_bionemo.probes.requirements import Requirement
from standin.distributions import write_distribution

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install distributions of nothing but metadata; no others are seen."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])

    def write(name: str, version: str, *requires: str, site: str = "site") -> None:
        (tmp_path / site).mkdir(exist_ok=True)
        write_distribution(tmp_path / site, name, version, requires=requires)

    return write


def unmet(names: Iterable[str] = ("lightning",)) -> list[str]:
    return [
        f"{found.package}{f'[{found.extra}]' if found.extra else ''}: {found.name}{found.specifier}"
        for found in requirements.on(set(names))
        if not found.is_met
    ]


def test_a_requirement_is_told_with_who_has_it_and_what_is_there(install: Install) -> None:
    install("Bionemo.LLM", "2.4.5", "lightning>=2.2.1", "numpy")
    install("lightning", "2.6.6")
    (found,) = requirements.on({"lightning"})
    assert found == Requirement("bionemo-llm", "2.4.5", "lightning", ">=2.2.1", None, "2.6.6")
    assert found.is_met


@pytest.mark.parametrize(
    ("requirement", "installed", "is_met"),
    [
        ("lightning<=2.4.0,>2.2.1", "2.4.0", True),
        ("lightning<=2.4.0,>2.2.1", "2.6.6", False),
        ("lightning<=2.4.0,>2.2.1", "2.2.1", False),
        ("lightning>=2.4", "2.6.0rc1", True),
        ("lightning>=2.4", "2.6.0+local.build", True),
        ("lightning", "0.1", True),
        ("lightning @ https://example.org/lightning.whl", "2.0", True),
    ],
)
def test_the_installed_version_is_within_or_not(
    install: Install, requirement: str, installed: str, is_met: bool
) -> None:
    install("model", "1.0", requirement)
    install("lightning", installed)
    assert [found.is_met for found in requirements.on({"lightning"})] == [is_met]


def test_what_is_not_installed_is_not_met(install: Install) -> None:
    install("model", "1.0", "lightning")
    install("pytorch-lightning", "2.6.6")
    assert unmet() == ["model: lightning"]


def test_an_extra_that_nobody_asks_for_requires_nothing(install: Install) -> None:
    install("nemo_toolkit", "3.0.0", 'lightning<=2.4.0,>2.2.1; extra == "core"')
    install("lightning", "2.6.6")
    assert requirements.on({"lightning"}) == ()


def test_an_extra_counts_where_another_package_asks_for_it(install: Install) -> None:
    install("geneformer", "0.0.1", "nemo_toolkit[lightning]==2.4.0")
    install("nemo_toolkit", "2.4.0", 'lightning<=2.4.0,>2.2.1; extra == "lightning"', 'lightning<1; extra == "tts"')
    install("lightning", "2.6.6")
    assert unmet() == ["nemo-toolkit[lightning]: lightning<=2.4.0,>2.2.1"]


def test_an_extra_can_ask_for_another_extra(install: Install) -> None:
    install("model", "1.0", "nemo_toolkit[All]")
    install("nemo_toolkit", "3.0", 'nemo-toolkit[core_only]; extra == "all"', 'lightning<2; extra == "core-only"')
    install("lightning", "2.6.6")
    assert unmet() == ["nemo-toolkit[core-only]: lightning<2"]


def test_packages_that_ask_for_each_other_come_to_an_end(install: Install) -> None:
    install("one", "1.0", "two[x]", 'lightning<2; extra == "y"')
    install("two", "1.0", 'one[y]; extra == "x"')
    install("lightning", "2.6.6")
    assert unmet() == ["one[y]: lightning<2"]


def test_a_requirement_for_another_platform_is_none(install: Install) -> None:
    install("model", "1.0", 'lightning<2; sys_platform == "win32"')
    install("lightning", "2.6.6")
    assert requirements.on({"lightning"}) == ()


def test_a_requirement_that_nobody_can_read_hides_no_other(install: Install) -> None:
    install("model", "1.0", "lightning >= two", "lightning<2")
    install("lightning", "2.6.6")
    assert unmet() == ["model: lightning<2"]


def test_a_package_without_requirements_or_metadata_is_no_trouble(install: Install, tmp_path: Path) -> None:
    install("plain", "1.0")
    (tmp_path / "site" / "broken-1.0.dist-info").mkdir()
    assert requirements.on({"lightning"}) == ()


def test_a_hidden_installation_requires_nothing(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer above another, as in an image that replaces a package."""
    install("model", "2.0")
    install("model", "1.0", "lightning<2", site="below")
    install("lightning", "2.6.6")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "below")])
    assert requirements.on({"lightning"}) == ()


def test_a_marker_that_cannot_be_evaluated_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """packaging 22 takes the release of the kernel for a version, which it need not be."""
    write_distribution(tmp_path, "odd", "1.0", requires=['absent; platform_release >= "20.0"'])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("platform.release", lambda: "6.18.44-fc-v657")
    assert [one.name for one in requirements.closure("odd")] in ([], ["absent"])
