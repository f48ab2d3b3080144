"""Virtual machines of clouds, by what their firmware says (DMI) and what cloud-init left behind.

Sources: the DMI strings are those by which cloud-init and systemd recognise these clouds; EC2 on Nitro gives the
instance type as product name and the instance's id as asset tag of the board; cloud-init keeps what Azure's
metadata service said in ``/run/cloud-init/instance-data.json``, readable by everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo.probes import files

_DMI = Path("sys/class/dmi/id")
_AZURE_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"
_EC2_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_AZURE_TYPE = re.compile(r"(Standard|Basic)_\w+")
_INSTANCE_ID = re.compile(r"i-[0-9a-f]+")
_CLOUD_INIT = Path("run/cloud-init/instance-data.json")


@dataclass(frozen=True)
class Cloud:
    """``name`` is aws, azure or gcp; the others are None where no file tells."""

    name: str
    instance_type: str | None = None
    instance_id: str | None = None


def read(root: Path) -> Cloud | None:
    """The cloud that this machine runs in; None where it is none of those known."""
    dmi = {name: files.line(root / _DMI / name) for name in ("sys_vendor", "bios_vendor", "product_name")}
    if "Amazon EC2" in dmi.values():
        product, tag = dmi["product_name"], files.line(root / _DMI / "board_asset_tag")
        return Cloud(
            "aws",
            product if _EC2_TYPE.fullmatch(product) else None,
            tag if _INSTANCE_ID.fullmatch(tag) else None,
        )
    if _is_ec2_on_xen(root, dmi["bios_vendor"]):
        return Cloud("aws")
    if files.line(root / _DMI / "chassis_asset_tag") == _AZURE_ASSET_TAG:
        return Cloud("azure", _azure_type(root))
    if dmi["product_name"] == "Google Compute Engine" or dmi["sys_vendor"] == "Google":
        return Cloud("gcp")
    return None


def _is_ec2_on_xen(root: Path, bios_vendor: str) -> bool:
    # Xen's own identifier; that of EC2 begins with its name.
    return bios_vendor.startswith("Amazon") or files.line(root / "sys/hypervisor/uuid").lower().startswith("ec2")


def _azure_type(root: Path) -> str | None:
    try:
        found: Any = files.mapping(root / _CLOUD_INIT)
    except files.Unreadable:
        return None
    for key in ("ds", "meta_data", "imds", "compute", "vmSize"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) and _AZURE_TYPE.fullmatch(found) else None
