"""Platforms: their files in a mount namespace, their variables, and shared file systems that answer or do not."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Rig
from faults import Change, Fault, Twin, at, done_at
from faults.injections import both, closed_gpus, variable
from standin import A10Gx1, H100x8, Node
from standin.files import can_share
from standin.torch_package import StandinTorch

FSX = "fs-0123456789abcdef0.fsx.us-west-2.amazonaws.com"
INSTANCE_ID = "i-0123456789abcdef0"
H100x1 = replace(H100x8, gpus=H100x8.gpus[:1])


# ------------------------------------------------------------------------------------------------- files of a node


@done_at("file")
def bare(rig: Rig) -> None:
    """No container, wherever the tests themselves run."""
    for mark in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container"):
        rig.files.remove(mark)


@at("file")
def dmi(**names: str) -> Change:
    """What the firmware says of the machine."""

    def inject(rig: Rig) -> None:
        rig.files.folder("/sys/class/dmi/id")
        for name, text in names.items():
            rig.files.write(f"/sys/class/dmi/id/{name}", f"{text}\n")

    return inject


def ec2(instance_type: str) -> Change:
    return dmi(
        sys_vendor="Amazon EC2", bios_vendor="Amazon EC2", product_name=instance_type, board_asset_tag=INSTANCE_ID
    )


@at("file")
def pci(gpus: int, efa: int = 0) -> Change:
    """What is on the bus."""

    def inject(rig: Rig) -> None:
        rig.files.folder("/sys/bus/pci/devices")
        kinds = [("0x10de", "0x2330", "0x030200")] * gpus + [("0x1d0f", "0xefa2", "0x020000")] * efa
        for position, values in enumerate(kinds):
            for name, value in zip(("vendor", "device", "class"), values, strict=True):
                rig.files.write(f"/sys/bus/pci/devices/0000:{position:02x}:00.0/{name}", f"{value}\n")

    return inject


@at("file")
def adapters(
    names: Iterable[str], driver: str, link: str, *, state: str = "4: ACTIVE", physical: str = "5: LinkUp",
    rate: str = "100 Gb/sec (4X EDR)", nodes: int | None = None,
) -> Change:  # fmt: skip
    """Adapters for RDMA, the first ``nodes`` of them with a device file (all unless given)."""

    def inject(rig: Rig) -> None:
        rig.files.folder("/sys/class/infiniband")
        rig.files.folder("/sys/class/infiniband_verbs")
        for position, name in enumerate(names):
            folder = f"/sys/class/infiniband/{name}"
            rig.files.link(f"{folder}/device/driver", f"../../../../bus/pci/drivers/{driver}")
            for file, text in {"state": state, "phys_state": physical, "link_layer": link, "rate": rate}.items():
                rig.files.write(f"{folder}/ports/1/{file}", f"{text}\n")
            rig.files.write(f"/sys/class/infiniband_verbs/uverbs{position}/ibdev", f"{name}\n")
            if nodes is None or position < nodes:
                rig.files.link(f"/dev/infiniband/uverbs{position}", "/dev/null")

    return inject


def efa(count: int, nodes: int | None = None) -> Change:
    return adapters([f"rdmap{position}s27" for position in range(count)], "efa", "Unspecified", nodes=nodes)


def infiniband(count: int, **changes: str) -> Change:
    return adapters([f"mlx5_{position}" for position in range(count)], "mlx5_core", "InfiniBand", **changes)  # type: ignore[arg-type]


PLUGIN = "/opt/amazon/ofi-nccl/lib/x86_64-linux-gnu"
LIBFABRIC = "/opt/amazon/efa/lib"


@done_at("file")
def efa_software(rig: Rig) -> None:
    """As AWS' installers leave it."""
    rig.files.write("/opt/amazon/efa_installed_packages", "# EFA installer version: 1.47.0\nlibfabric1-aws\n")
    rig.files.write(f"{LIBFABRIC}/libfabric.so.1", "")
    libfabric("2.4.0amzn3.0")(rig)
    plugin("1.18.0")(rig)
    rig.files.write("/opt/gdrcopy/lib/libgdrapi.so.2", "")
    rig.files.bind("/dev/gdrdrv", Path("/dev/null"))
    rig.files.folder("/etc/ld.so.conf.d")
    for name, folder in (("000_efa", LIBFABRIC), ("100_ofinccl", PLUGIN), ("gdrcopy", "/opt/gdrcopy/lib")):
        rig.files.write(f"/etc/ld.so.conf.d/{name}.conf", f"{folder}\n")


@at("file")
def libfabric(version: str) -> Change:
    return lambda rig: rig.files.write(
        f"{LIBFABRIC}/pkgconfig/libfabric.pc", f"Name: libfabric\nVersion: {version}\n"
    )


@at("file")
def plugin(version: str) -> Change:
    said = f"\x7fELF\0NET/OFI Initializing aws-ofi-nccl {version}\0"
    return lambda rig: rig.files.write(f"{PLUGIN}/libnccl-net.so", said)


@at("file")
def written(path: str, text: str, mode: int = 0o644) -> Change:
    return lambda rig: rig.files.write(path, text, mode)


@at("file")
def linked(path: str, target: str) -> Change:
    return lambda rig: rig.files.link(path, target)


@at("file")
def removed(path: str) -> Change:
    return lambda rig: rig.files.remove(path)


@at("file")
def script(name: str, text: str) -> Change:
    """A file in the folder from which the run is started."""
    return lambda rig: rig.write(name, text)


# --------------------------------------------------------------------------------------------------- whole platforms


def resources(orchestrator: str = "Slurm", instance_type: str = "ml.p5.48xlarge") -> str:
    group = {
        "Name": "workers",
        "InstanceType": instance_type,
        "Instances": [{"InstanceId": INSTANCE_ID, "InstanceName": "workers-1", "CustomerIpAddress": "10.1.2.3"}],
    }
    controllers = {"Name": "controllers", "InstanceType": "ml.c5.xlarge", "Instances": []}
    return json.dumps({"ClusterType": orchestrator, "InstanceGroups": [controllers, group]})


RESOURCES = "/opt/ml/config/resource_config.json"
PROVISIONING = "/opt/ml/config/provisioning_parameters.json"


def hyperpod(gpus: int = 8, adapters: int = 32, on_bus: int = 32, nodes: int | None = None) -> Change:
    """A node of HyperPod on Slurm: p5.48xlarge, in a job that has all of it."""

    def inject(rig: Rig) -> None:
        rig.node = replace(H100x8, gpus=H100x8.gpus[:gpus])
        rig.torch = StandinTorch()
        provisioning = {"workload_manager": "slurm", "worker_groups": [], "fsx_mountname": "abcdefgh"}
        rig.files.write(RESOURCES, resources())
        rig.files.write(PROVISIONING, json.dumps({**provisioning, "fsx_dns_name": FSX}))
        rig.files.folder("/opt/sagemaker_cluster")
        changes = (bare, ec2("p5.48xlarge"), pci(gpus, on_bus), efa(adapters, nodes), efa_software, slurm_job(gpus=8))
        both(*changes, pyxis)(rig)

    return inject


@done_at("driver library")
def without_job(rig: Rig) -> None:
    """A shell on the node, as pam_slurm_adopt and administrators have it."""
    for name in [name for name in rig.variables if name.startswith("SLURM_")]:
        del rig.variables[name]


@at("environment")
def slurm_job(gpus: int | None = None) -> Change:
    """The variables of a job."""

    def inject(rig: Rig) -> None:
        rig.variables |= {
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "ip-10-1-2-[3-4]",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
        }
        if gpus is not None:
            rig.variables["SLURM_GPUS_ON_NODE"] = str(gpus)

    return inject


PLUGSTACK = "/var/spool/slurmd/conf-cache/plugstack.conf"
PYXIS = "/usr/local/lib/slurm/spank_pyxis.so"
ENROOT = "/usr/local/bin/enroot"
ENROOT_CONF = "/etc/enroot/enroot.conf"


@done_at("file")
def pyxis(rig: Rig) -> None:
    """Slurm with containers, as on HyperPod: without a slurm.conf."""
    rig.files.write("/var/spool/slurmd/conf-cache/slurm.conf", "ClusterName=test\n")
    rig.files.write(PLUGSTACK, "include plugstack.conf.d/*.conf\n")
    rig.files.write(
        "/var/spool/slurmd/conf-cache/plugstack.conf.d/pyxis.conf", f"required {PYXIS} runtime_path=/run\n"
    )
    rig.files.write(PYXIS, "")
    rig.files.write(ENROOT, "#!/bin/sh\n", 0o755)
    enroot(data="/opt/dlami/nvme/tmp/enroot/data/user-$(id -u)")(rig)
    rig.files.mount("/opt/dlami/nvme", "tmpfs", "size=1t,mode=1777")


@at("file")
def enroot(runtime: str = "/opt/dlami/nvme/tmp/enroot/user-$(id -u)", data: str = "") -> Change:
    lines = {"ENROOT_RUNTIME_PATH": runtime, "ENROOT_CACHE_PATH": "/opt/dlami/nvme/enroot", "ENROOT_DATA_PATH": data}
    text = "#ENROOT_LIBRARY_PATH /usr/lib/enroot\n" + "".join(
        f"{name:24}{path}\n" for name, path in lines.items() if path
    )
    return written(ENROOT_CONF, text)


@at("file system")
def shared(
    path: str = "/fsx",
    answer: str | int = "well",
    source: str = f"{FSX}@tcp:/abcdefgh",
    kind: str = "fuse.glusterfs",
) -> Change:
    """A shared file system. The kernel that runs the tests has FUSE; Lustre and NFS it need not have."""

    def inject(rig: Rig) -> None:
        if not can_share():
            pytest.skip("a shared file system of ours needs FUSE, which this user cannot mount")
        rig.files.shared(path, kind, answer, source)

    return inject


def pod(node: Node, gpus_on_bus: int = 8, nodes: int | None = 0) -> Change:
    """A pod on a node of EKS: p5.48xlarge."""

    def inject(rig: Rig) -> None:
        rig.node = node
        rig.torch = StandinTorch()
        changes = (ec2("p5.48xlarge"), pci(gpus_on_bus, 32), efa(32, nodes))
        both(*changes, variable("KUBERNETES_SERVICE_HOST", "10.100.0.1"))(rig)

    return inject


@done_at("environment")
def hyperpod_pod(rig: Rig) -> None:
    pod(H100x8, nodes=None)(rig)
    efa_software(rig)
    rig.variables["NODE_NAME"] = f"hyperpod-{INSTANCE_ID}"


@at("environment")
def databricks(runtime: str = "17.3", **more: str) -> Change:
    """Classic compute with a GPU, on AWS."""

    def inject(rig: Rig) -> None:
        rig.node = A10Gx1.with_driver("580.95.05", 13000)
        rig.torch = StandinTorch()
        ec2("g5.xlarge")(rig)
        rig.variables |= {"DATABRICKS_RUNTIME_VERSION": runtime, **more}

    return inject


AZURE = dmi(
    sys_vendor="Microsoft Corporation",
    product_name="Virtual Machine",
    chassis_asset_tag="7783-7084-3265-9085-8269-3286-77",
)


def azure(ports: int = 8, **changes: str) -> Change:
    compute = {"ds": {"meta_data": {"imds": {"compute": {"vmSize": "Standard_ND96isr_H100_v5"}}}}}
    return both(
        bare, AZURE, pci(8), written("/run/cloud-init/instance-data.json", json.dumps(compute)),
        infiniband(ports, **changes),
    )  # fmt: skip


SBATCH = """#!/bin/bash
#SBATCH --nodes=2
declare -a ARGS=(--container-image train.sqsh)
AUTO_RESUME="--auto-resume=1"
srun -l "${ARGS[@]}" $AUTO_RESUME python train.py
"""
POD = """apiVersion: kubeflow.org/v1
kind: PyTorchJob
spec: {resources: {limits: {nvidia.com/gpu: 8}}}
"""
HEALTHY = hyperpod()
IN_JOB = both(slurm_job(), script("train.sbatch", SBATCH))


TWINS: dict[str, Twin] = {
    "platform::has_all_gpus": Twin(
        {
            "one lost": Fault(
                hyperpod(gpus=7), "7 GPUs; p5.48xlarge has 8", "Action:Replace", "REBOOT_NODE", layer="driver library"
            ),
            "one lost outside a pod": Fault(
                pod(H100x1, gpus_on_bus=7), "7 GPUs; p5.48xlarge has 8", "lspci", "REBOOT_NODE", layer="file"
            ),
            "fewer than Slurm gave": Fault(
                both(bare, closed_gpus(), slurm_job(gpus=9)),
                "8 GPUs; Slurm gave this job 9",
                "--ntasks=1 nvidia-smi -L",
                severity="warning",
            ),
            "fewer on the bus than Slurm gave": Fault(
                both(bare, pci(8), slurm_job(gpus=9)), "8 GPUs; Slurm gave this job 9", action="REBOOT_NODE"
            ),
            "lost in a part": Fault(
                both(hyperpod(gpus=7), slurm_job(gpus=4)),
                "7 GPUs; p5.48xlarge has 8",
                action="REBOOT_NODE",
                layer="driver library",
            ),
            "lost, seen from a shell": Fault(
                both(hyperpod(gpus=7), without_job), "7 GPUs; p5.48xlarge has 8", action="REBOOT_NODE"
            ),
        },
        healthy=HEALTHY,
    ),
    "platform::has_all_efa_adapters": Twin(
        {
            "one lost": Fault(
                hyperpod(adapters=31, on_bus=31),
                "31 EFA adapters; p5.48xlarge has 32",
                "look again in a minute",
                "REBOOT_NODE",
                layer="file",
            ),
            "no driver": Fault(
                hyperpod(adapters=0),
                "0 EFA adapters.* and 32 are on the PCI bus",
                r"\$ sudo modprobe efa",
                layer="file",
            ),
            "started with fewer": Fault(
                both(bare, ec2("p4d.24xlarge"), pci(8, 2), efa(2), efa_software),
                "2 EFA adapters; p4d.24xlarge has 4",
                "each of its 4 network cards",
                severity="warning",
                layer="file",
            ),
        },
        healthy=HEALTHY,
    ),
    "platform::efa_is_open": Twin(
        {
            "no files": Fault(
                hyperpod(nodes=30), "2 of 32 EFA adapters have no file", "modprobe ib_uverbs", layer="file"
            ),
            "none for a whole node": Fault(
                pod(H100x8),
                "all 8 GPUs of the machine and none of its 32 EFA",
                "vpc.amazonaws.com/efa: 32",
                layer="file",
            ),
        },
        healthy=HEALTHY,
    ),
    "platform::efa_has_libfabric": Twin(
        {
            "absent": Fault(
                both(HEALTHY, removed("/opt/amazon/efa")),
                r"libfabric is not installed \(EFA installer 1\.47",
                "--skip-kmod",
            ),
            "where nobody looks": Fault(
                both(HEALTHY, removed("/etc/ld.so.conf.d/000_efa.conf")),
                "libfabric.so.1 is installed",
                r"\$ export LD_LIBRARY_PATH=/opt/amazon/efa/lib:",
            ),
            "old": Fault(both(HEALTHY, libfabric("1.16.1")), r"libfabric is 1\.16\.1.* from 1\.18"),
        },
        healthy=HEALTHY,
    ),
    "platform::nccl_finds_efa": Twin(
        {
            "absent": Fault(both(HEALTHY, removed(PLUGIN)), r"aws-ofi-nccl \(libnccl-net.so\) is not installed"),
            "of another network": Fault(
                both(
                    HEALTHY,
                    removed(PLUGIN),
                    written("/opt/hpcx/lib/libnccl-net.so", "sharp"),
                    variable("LD_LIBRARY_PATH", "/opt/hpcx/lib"),
                ),
                "aws-ofi-nccl .* is not installed",
                layer="file",
            ),
            "where nobody looks": Fault(
                both(HEALTHY, removed("/etc/ld.so.conf.d/100_ofinccl.conf")),
                "is installed, in a folder",
                "export LD_LIBRARY_PATH=/opt/amazon/ofi-nccl",
            ),
            "old": Fault(both(HEALTHY, plugin("1.6.0-aws")), r"is 1\.6\.0 .*from 1\.7"),
        },
        healthy=HEALTHY,
    ),
    "platform::gdrcopy_is_ready": Twin(
        {
            "no driver": Fault(both(HEALTHY, removed("/dev/gdrdrv")), "/dev/gdrdrv is not there", "modprobe gdrdrv"),
            "no library": Fault(both(HEALTHY, removed("/opt/gdrcopy")), "do not find libgdrapi, "),
            "library where nobody looks": Fault(
                both(HEALTHY, removed("/etc/ld.so.conf.d/gdrcopy.conf")),
                "libgdrapi: /opt/gdrcopy/lib/libgdrapi.so.2 is not on the library path",
            ),
        },
        healthy=HEALTHY,
    ),
    "platform::nccl_variables_suit_efa": Twin(
        {
            "TCP": Fault(both(HEALTHY, variable("NCCL_NET", "Socket")), "NCCL_NET=Socket: .*TCP", "unset NCCL_NET"),
            "another provider": Fault(
                both(HEALTHY, variable("FI_PROVIDER", "tcp;ofi_rxm")), "another provider than efa"
            ),
            "a setting of the plugin": Fault(
                both(HEALTHY, variable("NCCL_BUFFSIZE", "4194304")), "overrides", "unset it"
            ),
            "of an old plugin": Fault(both(HEALTHY, variable("NCCL_PROTO", "simple")), "1.5", "unset NCCL_PROTO"),
        },
        healthy=both(HEALTHY, variable("FI_PROVIDER", "efa;ofi_rxd"), variable("NCCL_BUFFSIZE", "8388608")),
    ),
    "platform::infiniband_is_active": Twin(
        {
            "all down": Fault(
                azure(state="1: DOWN", physical="2: Polling"), "none of 8 InfiniBand ports is active", "ibstat"
            ),
            "no subnet manager": Fault(
                azure(state="2: INIT"), r"8 of 8 .*not active \(mlx5_0 port 1 is INIT", "sminfo"
            ),
            "one missing": Fault(
                azure(7),
                "7 active InfiniBand ports; Standard_ND96isr_H100_v5 has 8",
                "ibstat",
                "REBOOT_NODE",
                layer="file",
            ),
        },
        healthy=azure(),
    ),
    "platform::shared_file_systems_answer": Twin(
        {
            "hangs": Fault(
                shared(answer="never"),
                r"^/fsx \(GlusterFS\): no answer within 2 s$",
                "when the server is back\n.*dmesg",
                severity="warning",
            ),
            "hangs with a cache on it": Fault(
                both(shared(answer="never"), variable("HF_HOME", "/fsx/hf")),
                r"^/fsx \(GlusterFS\): no answer within 2 s \(HF_HOME is there\)$",
                layer="file system",
            ),
            "hangs behind a link": Fault(
                both(
                    shared(answer="never"), linked("/opt/cache", "/fsx/cache"), variable("HF_HOME", "/opt/cache/hf")
                ),
                r"\(HF_HOME is there\)$",
                layer="file system",
            ),
            "hangs beside a stale one": Fault(
                both(shared("/data", errno.ESTALE), shared("/well"), shared(answer="never")),
                "^/fsx [^/]*; and /data: Stale[^/]*$",
                severity="warning",
            ),
            "stale": Fault(
                shared("/my data", errno.ESTALE),
                "/my data: Stale file handle",
                r"exported it anew.*umount '/my data' && sudo mount '/my data'$",
                severity="warning",
            ),
            "stale with a cache on it": Fault(
                both(shared(answer=errno.ESTALE), variable("HF_HOME", "/fsx")),
                r"/fsx: Stale file handle \(HF_HOME is there\)$",
                layer="file system",
            ),
            "its program has ended": Fault(
                shared("/s3", errno.ENOTCONN, "mountpoint-s3", kind="fuse"),
                "/s3: .*endpoint is not connected",
                "umount /s3",
                severity="warning",
            ),
            "hangs, of a program that no table has": Fault(
                shared("/home2", "never", kind="fuse.sshfs"), r"^/home2 \(sshfs\): no answer", severity="warning"
            ),
            "broken": Fault(
                shared(answer=errno.EIO), "/fsx: Input/output error", "mount it again", severity="warning"
            ),
        },
        healthy=both(shared(), shared("/closed", errno.EACCES)),
        options=("--bionemo-timeout=2",),
    ),
    "platform::fsx_is_mounted": Twin(
        {
            "not at all": Fault(HEALTHY, f"{FSX} is not mounted", "mount_fsx.sh", layer="file"),
            "another one": Fault(
                both(HEALTHY, shared(source="fs-ffff.fsx.us-west-2.amazonaws.com@tcp:/x")), "is not mounted"
            ),
        },
        # The table of mounts has the server's address, not its name.
        healthy=both(HEALTHY, shared(source="10.1.71.197@tcp:/abcdefgh")),
    ),
    "platform::cluster_description_is_readable": Twin(
        {
            "cut off": Fault(
                both(HEALTHY, written(RESOURCES, resources()[:40])),
                "resource_config.json: it is no JSON",
                "another node",
            ),
            "empty": Fault(both(HEALTHY, written(RESOURCES, "")), "resource_config.json: it is empty"),
            "a list": Fault(
                both(HEALTHY, written(PROVISIONING, "[]")), "provisioning_parameters.json: it holds no JSON object"
            ),
        },
        healthy=HEALTHY,
    ),
    "platform::slurm_starts_containers": Twin(
        {
            "no plugin": Fault(both(HEALTHY, removed(PYXIS)), "spank_pyxis.so, which is not there", "install pyxis"),
            "no enroot": Fault(both(HEALTHY, removed(ENROOT)), "enroot is not installed", "install enroot"),
            "no room": Fault(
                both(HEALTHY, enroot(data="/small/data"), lambda rig: rig.files.mount("/small", "tmpfs", "size=1g")),
                "/small, .* has 1 GB free; .* 35 GB",
                "/opt/dlami/nvme",
                layer="file system",
            ),
            "on a shared file system": Fault(
                both(HEALTHY, shared(), enroot(runtime="/fsx/enroot/user-$(id -u)")),
                "RUNTIME_PATH .* shared file system: /fsx/enroot",
                "local disk",
            ),
        },
        healthy=HEALTHY,
    ),
    "platform::job_scripts_avoid_known_bugs": Twin(
        {
            "auto-resume is never passed": Fault(
                both(IN_JOB, script("train.sbatch", SBATCH.replace(" $AUTO_RESUME", ""))),
                "train.sbatch: it sets AUTO_RESUME",
                "srun ",
            ),
            "a path that newer images have not": Fault(
                both(IN_JOB, script("b.sh", "python /workspace/bionemo2/sub-packages/bionemo-esm2/train.py\n")),
                "b.sh: .*after 2.7.1",
            ),
            "a variable in a directive": Fault(
                both(IN_JOB, script("ddp.sh", "#!/bin/bash\n#SBATCH --nodes=${NUM_NODES}\n")),
                "ddp.sh: .*does not expand",
                "sbatch --nodes",
            ),
            "no shared memory in the pod": Fault(
                both(IN_JOB, script("job.yaml", POD)), "job.yaml: .*64 MB", "emptyDir"
            ),
            "in the job that runs": Fault(
                both(IN_JOB, written("/var/spool/slurmd/job04711/slurm_script", SBATCH.replace(" $AUTO_RESUME", ""))),
                "slurm_script.*: it sets AUTO_RESUME",
            ),
        },
        healthy=both(IN_JOB, script("job.yaml", POD + "# volumeMounts:\n- mountPath: /dev/shm\n")),
    ),
    "platform::databricks_runtime_is_supported": Twin(
        {
            "ended": Fault(databricks("13.3"), r"Runtime 13\.3 is without support since 2026-08-22", "18 ML"),
            "older than all on record": Fault(
                databricks("12.2"), r"Runtime 12\.2 is without support since .* latest"
            ),
            "ended, by its file": Fault(
                both(databricks(""), written("/databricks/DBR_VERSION", "13.3\n")), r"Runtime 13\.3 is without"
            ),
        },
        healthy=databricks(),
    ),
    "platform::databricks_storage_suits_training": Twin(
        {
            "workspace files": Fault(
                databricks(HF_HOME="/Workspace/Users/somebody@example.org/hf"),
                "^HF_HOME is below /Workspace: workspace files",
                "/Volumes",
            ),
            "DBFS": Fault(
                databricks(BIONEMO_CACHE_DIR="/dbfs/ml"), "BIONEMO_CACHE_DIR is below /dbfs", "set BIONEMO_CACHE_DIR"
            ),
        },
        healthy=databricks(HF_HOME="/Volumes/main/default/hf", TMPDIR="/local_disk0/tmp"),
    ),
}
