"""A real Slurm: munged, slurmctld and one slurmd for each node, all of them on the machine that runs the tests.

Each node has a host name of its own, which all of them resolve, and a disk: the folder :attr:`Slurm.disk` is the same
path on all of them and holds what :meth:`Slurm.disk_of` holds for that node. Nothing outlives the tests: the daemons
and every job are processes of one namespace, whose first process the kernel kills with the process that started it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "sinfo", "squeue", "unshare", "setpriv")
"""Debian: munge, slurmctld, slurmd, slurm-client and util-linux."""

_NAMESPACE = ("unshare", "--mount", "--pid", "--fork")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STARTS_WITHIN_S = 60.0
_SETTLES_WITHIN_S = 60.0
_PACE_S = 0.1

# Accounting, cgroups and topology are left out: nothing that is tested here depends on them.
_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MaxArraySize=10001
"""

# One node: its host name, its disk, its daemon.
_NODE = 'mount --bind "$0/disks/$1" "$0/disk" && hostname "$1" && exec slurmd -D -N "$1"'
_DAEMONS = """\
mount --bind "$0/hosts" /etc/hosts
munged --foreground --force --key-file="$0/munge.key" --socket="$0/munge.socket" --pid-file="$0/munge.pid" \
    --seed-file="$0/munge.seed" --log-file="$0/log/munge" &
slurmctld -D -c &
for node in $NODES; do
    unshare --mount --uts --propagation private sh -c "$ONE" "$0" "$node" &
done
wait
"""


class Slurm:
    """A cluster of nodes ``node1`` to ``nodeN`` with four processors each, in one partition.

    Its programs are run by :meth:`run`, as somebody at a login node would.
    """

    def __init__(self, folder: Path, nodes: int = 4) -> None:
        self.folder = folder
        self.nodes = tuple(f"node{number}" for number in range(1, nodes + 1))
        self.disk = folder / "disk"
        self._daemons: subprocess.Popen[bytes] | None = None
        self._lines = ""
        self._settings: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------ starting, ending

    def start(self) -> None:
        """Start all daemons, and wait until every node is idle."""
        for name in ("state", "spool", "log", "disk", *(f"disks/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self._lines = self._describe()
        (self.folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self.nodes)))
        self._write()
        # The one namespace of processes ends with its first, that one with unshare, and unshare with us.
        kept = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        with (self.folder / "log" / "daemons").open("wb") as log:
            self._daemons = subprocess.Popen(
                [*kept, "sh", "-c", _DAEMONS, str(self.folder)],
                env={**self.environ(), "NODES": " ".join(self.nodes), "ONE": _NODE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait(lambda: set(self.states().values()) == {"idle"}, "every node is idle", _STARTS_WITHIN_S)

    def stop(self) -> None:
        """End the daemons and all that they have started."""
        if self._daemons is not None:
            self._daemons.kill()
            self._daemons.wait()
            self._daemons = None

    def reset(self) -> None:
        """No job, no node that is drained, empty disks, no setting of a test."""
        if self._daemons is None or self._daemons.poll() is not None:
            raise AssertionError(f"Slurm has ended:\n{self._log()}")
        if self._settings:
            self._settings = {}
            self._configure()
        self.run("scancel", "--signal=KILL", "--full", "--state=RUNNING", check=False)
        self.run("scancel", "--user=root", check=False)
        for node, state in self.states().items():
            if "drain" in state or "down" in state:
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait(lambda: set(self.states().values()) == {"idle"}, "every node is idle again", _SETTLES_WITHIN_S)
        for node in self.nodes:
            for path in self.disk_of(node).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --------------------------------------------------------------------------------------------- what one does

    def environ(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a user of the cluster has in the environment, and these variables."""
        mine = {"SLURM_CONF": str(self._file), "HOME": str(self.folder), "LANG": "C.UTF-8", "PATH": _PATH}
        return mine | dict(variables or {})

    def run(
        self,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; one that fails is an error, unless ``check`` is false."""
        done = subprocess.run(
            [str(part) for part in command],
            env=self.environ(env),
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}\n{self._log()}"
        return done

    def sbatch(self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """Submit a batch job; its number."""
        return self.run("sbatch", "--parsable", *arguments, env=env, cwd=cwd).stdout.strip()

    def finish(self, job: str, within: float = 120) -> None:
        """Wait until no task of the job waits or runs any more."""
        self.wait(
            lambda: not self.run("squeue", "-h", "-j", job, check=False).stdout.strip(), f"job {job} ends", within
        )

    def states(self) -> dict[str, str]:
        """The state of each node in sinfo's words, such as idle, mixed or drained."""
        said = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False).stdout
        return dict(line.split()[:2] for line in said.splitlines() if len(line.split()) == 2)

    def reason(self, node: str) -> str:
        """Why a node is not to be used."""
        return self.run("sinfo", "--noheader", f"--nodes={node}", "--format=%E").stdout.strip()

    def disk_of(self, node: str) -> Path:
        """What lies on the disk of this node."""
        return self.folder / "disks" / node

    @contextmanager
    def configured(self, **settings: str) -> Iterator[None]:
        """With these lines in slurm.conf: ``configured(Prolog="/path", HealthCheckInterval="1")``."""
        self._settings = settings
        self._configure()
        try:
            yield
        finally:
            self._settings = {}
            self._configure()

    def wait(self, happens: Callable[[], bool], what: str, within: float) -> None:
        """Wait until something happens, and fail with the daemons' logs where it does not."""
        end = time.monotonic() + within
        while not happens():
            assert time.monotonic() < end, f"not within {within:g} s: {what}\n{self.states()}\n{self._log()}"
            time.sleep(_PACE_S)

    # ------------------------------------------------------------------------------------------------- its files

    @property
    def _file(self) -> Path:
        return self.folder / "slurm.conf"

    def _describe(self) -> str:
        controller, *ports = free_ports(1 + len(self.nodes))
        host = socket.gethostname()
        lines = [_CONFIGURATION.format(host=host, controller=controller, folder=self.folder)]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4\n"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        return "".join([*lines, f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE\n"])

    def _write(self) -> None:
        settings = "".join(f"{name}={value}\n" for name, value in self._settings.items())
        scratch = self._file.with_suffix(".part")
        scratch.write_text(self._lines + settings)
        scratch.replace(self._file)

    def _configure(self) -> None:
        self._write()
        self.run("scontrol", "reconfigure")

    def _log(self) -> str:
        said = [path.read_text(errors="replace").splitlines()[-15:] for path in sorted(self.folder.glob("log/*"))]
        return "\n".join(line for lines in said for line in lines)


def obstacle() -> str | None:
    """Why there can be no Slurm here."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"Slurm's programs are not all installed: {', '.join(missing)} missing"
    if os.geteuid() != 0:
        return "a Slurm with nodes of their own names and disks takes root"
    tried = subprocess.run(
        ["unshare", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else "this machine lets nobody make namespaces"


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """A Slurm of four nodes, once a session."""
    why_not = obstacle()
    if why_not and os.environ.get("CI") == "true":
        pytest.fail(why_not)
    if why_not:
        pytest.skip(why_not)
    # Short, since the name of a socket may have 107 characters; and every folder above must be closed to others.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Slurm(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def slurm(slurm_cluster: Slurm) -> Slurm:
    """The Slurm of this session, with nothing that another test has left."""
    slurm_cluster.reset()
    return slurm_cluster
