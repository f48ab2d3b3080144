"""The platform around the machine: cloud, scheduler, network between nodes, shared file systems."""

from __future__ import annotations

# In the order on the screen.
# ruff: noqa: I001
from pytest_bionemo.checks.platform.gpus import has_all_gpus
from pytest_bionemo.checks.platform.efa import (
    has_all_efa_adapters,
    efa_is_open,
    efa_has_libfabric,
    nccl_finds_efa,
    gdrcopy_is_ready,
    nccl_variables_suit_efa,
)
from pytest_bionemo.checks.platform.infiniband import infiniband_is_active
from pytest_bionemo.checks.platform.file_systems import shared_file_systems_answer, fsx_is_mounted
from pytest_bionemo.checks.platform.schedulers import (
    cluster_description_is_readable,
    slurm_starts_containers,
    job_scripts_avoid_known_bugs,
)
from pytest_bionemo.checks.platform.databricks import (
    databricks_runtime_is_supported,
    databricks_storage_suits_training,
)

__all__ = [
    "cluster_description_is_readable",
    "databricks_runtime_is_supported",
    "databricks_storage_suits_training",
    "efa_has_libfabric",
    "efa_is_open",
    "fsx_is_mounted",
    "gdrcopy_is_ready",
    "has_all_efa_adapters",
    "has_all_gpus",
    "infiniband_is_active",
    "job_scripts_avoid_known_bugs",
    "nccl_finds_efa",
    "nccl_variables_suit_efa",
    "shared_file_systems_answer",
    "slurm_starts_containers",
]
