"""Which check answers for what a fixture gives."""

from __future__ import annotations

ESTABLISHED_BY = {
    "linux": "host::runs_linux",
    "storage": "host::folders_answer",
    "driver": "driver::loads",
    "torch_is_due": "driver::loads",
    "gpus": "driver::devices_present",
    "any_gpu": "driver::devices_present",
    "gpu": "driver::answers",
    "answering_gpus": "driver::answers",
    "gpu_health": "health::can_be_read",
    "torch_installed": "torch::installed",
    "torch_build": "torch::imports",
    "cuda_torch": "torch::is_cuda_build",
    "own_libcuda": "driver::libcuda_fits",
    "usable_torch": "driver::supports_torch_cuda",
    "device": "torch::sees_same_gpus",
    "worker": "torch::computes",
    "nodes": "collectives::every_node_arrives",
    "ranks": "collectives::ranks_meet",
    "local_ranks": "interconnect::devices_meet",
    "shared_folders": "platform::shared_file_systems_answer",
    "libfabric": "platform::efa_has_libfabric",
    "whole_package": "packages::is_whole",
    "importable_package": "packages::namespace_is_clean",
    "imported_package": "packages::imports_deeply",
}
"""The check that establishes what a fixture gives, by the name of the fixture."""
