"""What the probes of platforms make of files and variables, damaged ones among them."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from faults.platform import INSTANCE_ID, resources
from pytest_bionemo.facts import platforms as facts
from pytest_bionemo.probes import fabric, files, mounts, platforms
from pytest_bionemo.probes.child import Answer, Child
from pytest_bionemo.probes.platforms import Cloud, Databricks, HyperPod, Kubernetes, Platform, Slurm, slurm

RESOURCES = "opt/ml/config/resource_config.json"
PROVISIONING = "opt/ml/config/provisioning_parameters.json"
DMI = "sys/class/dmi/id"


def lay(root: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def dmi(**names: str) -> dict[str, str]:
    return {f"{DMI}/{name}": f"{text}\n" for name, text in names.items()}


EC2 = dmi(sys_vendor="Amazon EC2", product_name="p5.48xlarge", board_asset_tag=INSTANCE_ID)


def test_a_workstation_is_no_platform(tmp_path: Path) -> None:
    assert platforms.read({"HOME": "/root"}, tmp_path) == Platform()
    assert platforms.read({}, tmp_path).describe() == ""


# --------------------------------------------------------------------------------------------------------- clouds


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (EC2, Cloud("aws", "p5.48xlarge", INSTANCE_ID)),
        (dmi(sys_vendor="Amazon EC2", product_name="HVM domU"), Cloud("aws")),
        (dmi(bios_vendor="Amazon", product_name="HVM domU"), Cloud("aws")),
        ({"sys/hypervisor/uuid": "ec2e1916-9099-7caf-fd21-012345abcdef\n"}, Cloud("aws")),
        ({"sys/hypervisor/uuid": "4c4c4544-0000-2010-8020-80c04f202020\n"}, None),
        (dmi(sys_vendor="Google", product_name="Google Compute Engine"), Cloud("gcp")),
        (dmi(sys_vendor="Microsoft Corporation", product_name="Virtual Machine"), None),  # Hyper-V
        (dmi(chassis_asset_tag="7783-7084-3265-9085-8269-3286-77"), Cloud("azure")),
        (dmi(sys_vendor="Dell Inc.", product_name="PowerEdge XE9680"), None),
        (dmi(sys_vendor="", product_name="\0\0\0"), None),
    ],
)
def test_clouds_are_told_by_what_their_firmware_says(
    tmp_path: Path, texts: Mapping[str, str], expected: Cloud | None
) -> None:
    assert platforms.read({}, lay(tmp_path, texts)).cloud == expected


AZURE = dmi(chassis_asset_tag="7783-7084-3265-9085-8269-3286-77")
CLOUD_INIT = "run/cloud-init/instance-data.json"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps({"ds": {"meta_data": {"imds": {"compute": {"vmSize": "Standard_ND96isr_H100_v5"}}}}}),
         "Standard_ND96isr_H100_v5"),
        (json.dumps({"ds": {"meta_data": {"imds": {"compute": {"vmSize": ["x"]}}}}}), None),
        (json.dumps({"ds": {"meta_data": "redacted for non-root user"}}), None),
        ("[1, 2]", None),
        ('{"ds": ', None),
        ("", None),
    ],
)  # fmt: skip
def test_the_type_of_an_azure_machine_is_what_cloud_init_kept(
    tmp_path: Path, text: str, expected: str | None
) -> None:
    lay(tmp_path, AZURE | {CLOUD_INIT: text})
    assert platforms.read({}, tmp_path).instance_type == expected


# -------------------------------------------------------------------------------------------------------- HyperPod


def test_hyperpod_on_slurm_is_three_platforms_at_once(tmp_path: Path) -> None:
    lay(tmp_path, EC2 | {RESOURCES: resources(), PROVISIONING: '{"fsx_dns_name": "fs-1.fsx.aws"}'})
    found = platforms.read({"SLURM_JOB_ID": "1"}, tmp_path)
    assert found.names == ("hyperpod", "slurm", "aws")
    assert found.hyperpod == HyperPod("slurm", "ml.p5.48xlarge", "fs-1.fsx.aws")
    assert (found.scheduler, found.instance_type) == ("slurm", "p5.48xlarge")
    assert found.describe() == "HyperPod with Slurm, AWS p5.48xlarge"


def test_hyperpod_on_eks_needs_no_slurm(tmp_path: Path) -> None:
    found = platforms.read({}, lay(tmp_path, {RESOURCES: resources("Kubernetes", "ml.g5.8xlarge")}))
    assert (found.hyperpod, found.kubernetes) == (HyperPod("kubernetes"), Kubernetes(is_pod=False))
    found = platforms.read({}, lay(tmp_path, EC2))
    assert found.hyperpod == HyperPod("kubernetes", "ml.g5.8xlarge")
    assert found.instance_type == "p5.48xlarge", "the machine knows what it is, its description can be stale"


def test_a_pod_knows_hyperpod_by_the_name_of_its_node(tmp_path: Path) -> None:
    variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NODE_NAME": "hyperpod-i-0123"}
    found = platforms.read(variables, tmp_path)
    assert (found.hyperpod, found.kubernetes) == (HyperPod("kubernetes"), Kubernetes(is_pod=True))
    assert platforms.read({**variables, "NODE_NAME": "ip-10-0-0-1"}, tmp_path).hyperpod is None


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("   \n", "it is empty"),
        (resources()[:50], "it is no JSON"),
        ("\0" * 100, "it is no JSON"),
        (DEEP, "it is no JSON"),
        ("[]", "it holds no JSON object, but list"),
        ('"text"', "it holds no JSON object, but str"),
        (" " * (1 << 20) + "{}" + " " * 10, "it is"),
        ('{"a": "' + "x" * (2 << 20) + '"}', "it is larger than 1 MiB"),
    ],
    ids=["empty", "blank", "cut off", "zeros", "deep", "list", "text", "blanks", "huge"],
)
def test_a_damaged_description_is_still_hyperpod_and_says_what_is_wrong(
    tmp_path: Path, text: str, problem: str
) -> None:
    found = platforms.read({}, lay(tmp_path, {RESOURCES: text})).hyperpod
    assert found
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"/{RESOURCES}: {problem}")
    assert found.instance_type is None


@pytest.mark.parametrize(
    "groups",
    [None, 7, "ml.p5.48xlarge", {}, [None, 1, "x", []], [{"InstanceType": 5}], [{"Instances": {"InstanceId": 1}}],
     [{"InstanceType": "ml.p5.48xlarge"}, {"InstanceType": "ml.g5.xlarge", "Instances": [None]}]],
)  # fmt: skip
def test_groups_of_no_known_form_tell_no_instance_type(tmp_path: Path, groups: object) -> None:
    lay(tmp_path, {RESOURCES: json.dumps({"ClusterType": ["Slurm"], "InstanceGroups": groups})})
    found = platforms.read({}, tmp_path).hyperpod
    assert found == HyperPod()


def test_a_description_that_this_user_may_not_read_is_no_fault(tmp_path: Path) -> None:
    lay(tmp_path, {RESOURCES: "{"})
    (tmp_path / RESOURCES).unlink()
    (tmp_path / RESOURCES).mkdir()  # whatever cannot be opened as a file
    (tmp_path / "opt/sagemaker_cluster").mkdir()
    assert platforms.read({}, tmp_path).hyperpod == HyperPod()


# ------------------------------------------------------------------------------------ Slurm, Kubernetes, Databricks


def test_the_job_of_slurm_is_read_from_its_variables(tmp_path: Path) -> None:
    variables = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "16",
        "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_GPUS_ON_NODE": "8",
    }  # fmt: skip
    assert platforms.read(variables, tmp_path).slurm == Slurm("4711", 2, "n[1-2]", 16, 9, 1, 8)
    damaged = dict.fromkeys(variables, "many") | {"SLURM_JOB_ID": "4711", "SLURM_GPUS_ON_NODE": "9" * 4000}
    assert platforms.read(damaged, tmp_path).slurm == Slurm("4711", node_list="many")


def test_a_node_of_slurm_is_one_outside_a_job_too(tmp_path: Path) -> None:
    lay(tmp_path, {"var/spool/slurmd/conf-cache/slurm.conf": "ClusterName=x\n"})
    assert platforms.read({}, tmp_path).slurm == Slurm()


def test_a_machine_with_the_clients_package_alone_is_no_node_of_slurm(tmp_path: Path) -> None:
    lay(tmp_path, {"etc/slurm/plugstack.conf": "include /etc/slurm/plugstack.conf.d/*.conf\n"})
    assert platforms.read({}, tmp_path).slurm is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DATABRICKS_RUNTIME_VERSION": "17.3"}, Databricks("classic", runtime="17.3")),
        ({"DATABRICKS_RUNTIME_VERSION": "15.4.x-gpu-ml-scala2.12"}, Databricks("classic", runtime="15.4")),
        ({"DATABRICKS_RUNTIME_VERSION": "custom"}, Databricks("classic")),
        ({"DATABRICKS_RUNTIME_VERSION": "client.4.1"}, Databricks("serverless", environment="4.1")),
        ({"IS_SERVERLESS": "TRUE", "DATABRICKS_ENV_VERSION": "4"}, Databricks("serverless", environment="4")),
        ({"DATABRICKS_ENV_VERSION": "5", "DATABRICKS_ACCELERATOR": "GPU_1xA10"},
         Databricks("serverless GPU", environment="5")),
        ({"DATABRICKS_RUNTIME_VERSION": ""}, None),
        ({"SPARK_HOME": "/opt/spark"}, None),
    ],
)  # fmt: skip
def test_databricks_is_told_by_its_variables(
    tmp_path: Path, variables: Mapping[str, str], expected: Databricks | None
) -> None:
    assert platforms.read(variables, tmp_path).databricks == expected


def test_databricks_container_services_have_the_file_alone(tmp_path: Path) -> None:
    lay(tmp_path, {"databricks/DBR_VERSION": "16.4\n"})
    assert platforms.read({}, tmp_path).databricks == Databricks("classic", runtime="16.4")


def test_kubernetes_is_told_by_the_folder_of_its_secrets_which_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "var/run/secrets/kubernetes.io/serviceaccount").mkdir(parents=True)
    assert platforms.read({}, tmp_path).kubernetes == Kubernetes(is_pod=True)


def test_containers_of_slurm_are_found_through_included_files(tmp_path: Path) -> None:
    lay(tmp_path, {
        "etc/slurm/plugstack.conf": "# comment\ninclude /etc/slurm/plugstack.conf.d/*.conf\ninclude [\ninclude /\n",
        "etc/slurm/plugstack.conf.d/pyxis.conf": "required /usr/lib/slurm/spank_pyxis.so\n",
        "etc/enroot/enroot.conf": "ENROOT_DATA_PATH /fsx/$(hostname)/data\nENROOT_CACHE_PATH ${SCRATCH}/cache\n",
    })  # fmt: skip
    found = slurm.containers({"SCRATCH": "/scratch"}, ["/fsx"], tmp_path)
    assert found
    assert (found.configuration, found.plugin_exists) == (Path("/etc/slurm/plugstack.conf.d/pyxis.conf"), False)
    assert [(place.setting, place.folder) for place in found.places] == [("ENROOT_CACHE_PATH", Path("/"))]
    assert slurm.containers({}, (), tmp_path / "nowhere") is None


# ----------------------------------------------------------------------------------------------------------- files


def test_a_pipe_in_the_place_of_a_file_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    assert files.text(tmp_path / "pipe") == ""
    assert files.mapping(tmp_path / "pipe") is None
    assert files.line(tmp_path) == ""
    assert time.monotonic() - began < 5


def test_text_is_read_up_to_its_limit_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe" * 1000)
    assert files.text(tmp_path / "x", 4) == "\N{REPLACEMENT CHARACTER}" * 4


# ---------------------------------------------------------------------------------------------------------- mounts

LUSTRE = "53 27 0:44 / /fsx rw,noatime - lustre 10.1.2.3@tcp:/abc rw,checksum,flock"
LOCAL = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"


def table(tmp_path: Path, *lines: str) -> Path:
    return lay(tmp_path, {"proc/self/mountinfo": "\n".join(lines) + "\n"})


def test_shared_file_systems_are_those_of_their_types(tmp_path: Path) -> None:
    blank = r"54 27 0:45 / /data/my\040files rw shared:7 master:2 - nfs4 server:/export\040x rw"
    found = mounts.read(table(tmp_path, LOCAL, LUSTRE, blank))
    assert found
    assert mounts.shared(found, ("lustre", "nfs4")) == (
        mounts.Mount("/fsx", "lustre", "10.1.2.3@tcp:/abc"),
        mounts.Mount("/data/my files", "nfs4", "server:/export x"),
    )


def test_what_is_mounted_over_is_not_asked(tmp_path: Path) -> None:
    found = mounts.read(table(tmp_path, LUSTRE, "60 53 0:9 / /fsx rw - tmpfs none rw"))
    assert found
    assert mounts.shared(found, ("lustre",)) == ()


@pytest.mark.parametrize("text", ["", "\n\n", "garbage\n", " - \n", "1 2 3 / relative rw - nfs x y\n", "\0" * 500])
def test_an_empty_or_damaged_table_of_mounts_tells_nothing(tmp_path: Path, text: str) -> None:
    lay(tmp_path, {"proc/self/mountinfo": text})
    assert mounts.read(tmp_path) is None


def test_a_place_whose_name_is_not_utf8_is_asked_by_its_name(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(place)).mkdir()
    (tmp_path / "proc/self").mkdir(parents=True)
    line = b"54 27 0:45 / " + place + b" rw - nfs4 s:/ rw\n"
    (tmp_path / "proc/self/mountinfo").write_bytes(line)
    (found,) = mounts.read(tmp_path) or ()
    answer = Child(mounts.TARGET, 60, arguments={"paths": [found.path]}).answer()
    assert answer.before == ({"path": found.path, "errno": None, "error": None},)


def test_a_root_of_layers_is_that_of_a_container(tmp_path: Path) -> None:
    below = "1 0 0:1 / / rw - rootfs rootfs rw"
    assert mounts.has_own_root(mounts.read(table(tmp_path, below, "27 1 0:50 / / rw - overlay overlay rw")) or ())
    assert not mounts.has_own_root(mounts.read(table(tmp_path, below, LOCAL)) or ())
    assert not mounts.has_own_root(())


def test_no_table_of_mounts_tells_nothing(tmp_path: Path) -> None:
    assert mounts.read(tmp_path) is None


def test_a_huge_table_of_mounts_is_read_in_time(tmp_path: Path) -> None:
    lines = [LUSTRE.replace("/fsx", f"/fsx{number}") for number in range(20_000)]
    began = time.monotonic()
    found = mounts.read(table(tmp_path, LOCAL, "x" * 100_000, *lines))
    assert found
    assert len(mounts.shared(found, ("lustre",))) == 20_000
    assert time.monotonic() - began < 20


def test_every_file_system_is_asked_though_there_are_more_than_threads(tmp_path: Path) -> None:
    paths = [str(tmp_path)] * 299 + [str(tmp_path / "hidden below another mount"), "/" + "x" * 300]
    child = Child(mounts.TARGET, 60, arguments={"paths": paths})
    answer = child.answer()
    assert answer.value == {"asked": 301}
    assert len(answer.before) == 301
    assert [said["error"] for said in answer.before if said["errno"]] == ["File name too long"]


def test_what_does_not_answer_is_named() -> None:
    here, there = mounts.Mount("/a", "nfs", "x"), mounts.Mount("/b", "nfs", "x")
    late = "no answer within 2 s, while asking the shared file systems"
    said = ({"path": "/a", "errno": errno.EIO, "error": "x"},)
    assert mounts.silent([here, there], Answer(None, late, said)) == (there,)
    assert mounts.broken([here, there], Answer(None, late, said)) == (here,)


@pytest.mark.parametrize(
    "failure", [None, "exit status 1", "no answer within 2 s", "killed by SIGSEGV, while asking"]
)
def test_nothing_is_silent_that_nobody_came_to_ask(failure: str | None) -> None:
    assert mounts.silent([mounts.Mount("/a", "nfs", "x")], Answer(None, failure)) == ()


def test_programs_that_serve_files_are_shared_but_for_those_of_this_machine() -> None:
    kinds = ["fuse", "fuse.rclone", "fuse.portal", "fuse", "fuseblk", "fusectl", "9p", "ext4", "fuse.", "fuse.s3fs"]
    sources = ["mountpoint-s3", "s3:x", "portal", "lxcfs", "/dev/sda1", "fusectl", "share", "/dev/vda", "sshfs", "b"]
    found = [mounts.Mount(f"/{n}", *both) for n, both in enumerate(zip(kinds, sources, strict=True))]
    shared = mounts.shared(found, facts.shared_file_systems(), facts.local_programs())
    assert [mount.path for mount in shared] == ["/0", "/1", "/6", "/8", "/9"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{0}/fsx", ["fsx"]), ("{0}/fsx/a/b", ["fsx"]), ("{0}/fsx2", []), ("{0}/link/a", ["fsx"]),
        ("{0}/up/x", ["fsx"]),
        ("{0}/round", []), ("{0}/fsx/data/x", ["fsx", "fsx/data"]), ("{0}/a/../fsx", ["fsx"]), ("/", []), ("rel", []),
    ],
)  # fmt: skip
def test_links_to_a_mount_are_followed_and_the_mount_is_not_touched(
    tmp_path: Path, path: str, expected: list[str]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "fsx" / "deep")
    (tmp_path / "up").symlink_to("x/../link")
    (tmp_path / "x").mkdir()
    (tmp_path / "round").symlink_to("round")
    shared = [mounts.Mount(str(tmp_path / name), "nfs", "s") for name in ("fsx", "fsx/data", "other")]
    found = mounts.touched(path.format(tmp_path), shared)  # which are not even there
    assert [os.path.relpath(mount.path, tmp_path) for mount in found] == expected


# ---------------------------------------------------------------------------------------------------------- fabric


def test_a_machine_without_sys_has_no_adapters(tmp_path: Path) -> None:
    found = fabric.read({}, tmp_path)
    assert (found.adapters, found.pci_efa, found.libfabric) == ((), None, None)


def adapter(root: Path, name: str, driver: str = "efa", **changes: str) -> None:
    folder = root / "sys/class/infiniband" / name
    port = {"state": "4: ACTIVE", "phys_state": "5: LinkUp", "link_layer": "InfiniBand", **changes}
    lay(folder, {f"ports/1/{file}": f"{text}\n" for file, text in port.items()})
    (folder / "device").mkdir()
    (folder / "device/driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")


def test_adapters_say_their_driver_their_ports_and_their_file(tmp_path: Path) -> None:
    adapter(tmp_path, "rdmap0s6")
    lay(tmp_path, {"sys/class/infiniband_verbs/uverbs0/ibdev": "rdmap0s6\n", "dev/infiniband/uverbs0": ""})
    lay(tmp_path, {"sys/class/infiniband_verbs/abi_version": "6\n"})
    (found,) = fabric.read({}, tmp_path).adapters
    assert found.is_efa
    assert (found.node, found.is_open) == ("/dev/infiniband/uverbs0", True)
    assert found.ports == (fabric.Port("1", "ACTIVE", "LinkUp", "InfiniBand"),)
    assert found.firmware is None


def test_the_firmware_of_adapters_is_told_once_with_its_driver(tmp_path: Path) -> None:
    for name, driver, version in (
        ("a", "mlx5_core", "28.39.1002\n"),
        ("b", "mlx5_core", "28.39.1002\n"),
        ("c", "efa", ""),
    ):
        adapter(tmp_path, name, driver)
        lay(tmp_path, {f"sys/class/infiniband/{name}/fw_ver": version})
    found = fabric.read({}, tmp_path)
    assert found.firmware == ("mlx5_core 28.39.1002",)
    assert fabric.Fabric.from_json(json.loads(json.dumps(asdict(found), default=str))) == found


def test_the_links_of_adapters_are_counted_by_rate_and_those_that_are_down_by_state(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        adapter(tmp_path, name, "mlx5_core", rate="400 Gb/sec (4X NDR)")
    adapter(tmp_path, "d", "mlx5_core", rate="200 Gb/sec (2X NDR)")
    adapter(tmp_path, "e", "mlx5_core", rate="10 Gb/sec (4X SDR)", state="1: DOWN")
    adapter(tmp_path, "f", "mlx5_core", rate="100 Gb/sec (4X EDR)", link_layer="Ethernet")
    adapter(tmp_path, "g", "efa", rate="100 Gb/sec (4X EDR)", link_layer="Unspecified")
    assert fabric.read({}, tmp_path).links == (
        "3 x InfiniBand 400 Gb/sec (4X NDR)",
        "1 x EFA 100 Gb/sec (4X EDR)",
        "1 x Ethernet 100 Gb/sec (4X EDR)",
        "1 x InfiniBand 200 Gb/sec (2X NDR)",
        "1 x InfiniBand DOWN",
    )


def test_an_adapter_of_which_nothing_can_be_read_is_none_of_aws(tmp_path: Path) -> None:
    (tmp_path / "sys/class/infiniband/mlx5_0/ports/1").mkdir(parents=True)
    (tmp_path / "sys/class/infiniband/strange").mkdir()
    found = fabric.read({}, tmp_path)
    assert found.efa == ()
    assert found.adapters[0].ports == (fabric.Port("1", "", "", ""),)
    assert found.adapters[1].node is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_device_file_that_is_closed_to_this_user_is_known_without_opening_it() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        adapter(root, "rdmap0s6")
        lay(root, {"sys/class/infiniband_verbs/uverbs0/ibdev": "rdmap0s6\n", "dev/infiniband/uverbs0": ""})
        (root / "dev/infiniband/uverbs0").chmod(0o600)
        child = os.fork()
        if child == 0:
            os.setresuid(65534, 65534, 65534)
            (found,) = fabric.read({}, root).adapters
            os._exit(0 if found.node and not found.is_open else 1)
        assert os.waitpid(child, 0)[1] == 0
        (found,) = fabric.read({}, root).adapters
        assert found.is_open, "root may use all of them"


@pytest.mark.parametrize(
    ("text", "version"),
    [("aws-ofi-nccl 1.13.2-aws", "1.13.2"), ("aws-ofi-nccl GitHub-dev", None), ("\xff" * 999, None)],
)
def test_the_plugin_says_its_version_where_it_has_one(tmp_path: Path, text: str, version: str | None) -> None:
    adapter(tmp_path, "rdmap0s6")
    lay(tmp_path, {"opt/aws-ofi-nccl/lib/libnccl-net.so": text})
    found = fabric.read({"LD_LIBRARY_PATH": "/opt/aws-ofi-nccl/lib"}, tmp_path).plugin
    assert found == fabric.Library(tmp_path / "opt/aws-ofi-nccl/lib/libnccl-net.so", True, version)


def test_probes_leave_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    assert list(mounts.ask([str(tmp_path)])) == [{"path": str(tmp_path), "errno": None, "error": None}]
    assert threading.active_count() <= before + 1
