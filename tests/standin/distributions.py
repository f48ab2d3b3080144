"""Installed distributions that tests write: whole, with a true RECORD, or broken on purpose."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["remove_file", "write_distribution"]


def _escaped(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _inside(site: Path, relative: str) -> Path:
    """The path of a file in a site folder, never one that a link there leads out to."""
    path = site / relative
    if Path(relative).is_absolute() or not path.parent.resolve().is_relative_to(site.resolve()):
        raise ValueError(f"{relative} does not lie in {site} itself")
    return path


def _info_folder(site: Path, name: str) -> Path:
    prefix = _escaped(name)
    found = [
        path
        for path in site.glob("*.dist-info")
        if _escaped(path.name.removesuffix(".dist-info").rsplit("-", 1)[0]) == prefix
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} distributions named {name} in {site}")
    return found[0]


def _record_line(relative: str, content: bytes) -> list[str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return [relative, f"sha256={digest}", str(len(content))]


def record_text(rows: Iterable[Iterable[str]]) -> str:
    """The text of a RECORD."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_distribution(
    site: Path,
    name: str,
    version: str,
    files: Mapping[str, str] | None = None,
    requires_python: str | None = None,
    requires: Iterable[str] = (),
    *,
    entry_points: str | None = None,
) -> Path:
    """Install a distribution of these files (paths relative to ``site``) and return its dist-info folder."""
    info = f"{_escaped(name)}-{version.replace('-', '_')}.dist-info"
    contents = dict(files or {})
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    if requires_python is not None:
        metadata.append(f"Requires-Python: {requires_python}")
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    modules = {path.split("/")[0].removesuffix(".py") for path in contents if path.endswith(".py")}
    contents[f"{info}/METADATA"] = "\n".join(metadata) + "\n"
    contents[f"{info}/INSTALLER"] = "pip\n"
    contents[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: standin\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/top_level.txt"] = "".join(f"{module}\n" for module in sorted(modules))
    if entry_points is not None:
        contents[f"{info}/entry_points.txt"] = entry_points
    rows = []
    for relative, text in contents.items():
        path = _inside(site, relative)
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"{relative} is in {site} already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        rows.append(_record_line(relative, text.encode()))
    rows.append([f"{info}/RECORD", "", ""])
    (site / info / "RECORD").write_text(record_text(rows), "utf-8")
    return site / info


def remove_file(site: Path, name: str, relative: str) -> None:
    """Take away a file that the distribution's RECORD still lists."""
    with (_info_folder(site, name) / "RECORD").open(encoding="utf-8", newline="") as record:
        listed = {row[0] for row in csv.reader(record) if row}
    if relative not in listed:
        raise LookupError(f"{name} in {site} has no file {relative}")
    _inside(site, relative).unlink()
