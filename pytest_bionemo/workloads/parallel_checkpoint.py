"""A training of all ranks that loses one, and goes on from the checkpoint on a file system that all of them share.

Two workloads, since the processes of the first do not outlive it: ``interrupt`` trains, saves and kills its last
rank; ``resume``, in new processes, loads and trains on. The checkpoint is that of ``torch.distributed.checkpoint``,
into which every rank writes its own part.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_bionemo.workloads import parallel_esm2, timing
from pytest_bionemo.workloads.meeting import Meeting, Place, meet
from pytest_bionemo.workloads.parallel_esm2 import Alone, Course, Pupil

if TYPE_CHECKING:
    import torch

KILLED_IN = "the step in which a rank is killed"
"""The name of that step, by which the others say what they miss."""
_OTHER_SEED = 1
_MARK = "of this run"
# How long a file of one node may take to be seen by the others: network file systems keep what they know of a folder.
_VISIBLE_WITHIN_S = 10.0
_GLANCE_S = 0.1


def interrupt(
    place: Mapping[str, Any],
    name: str,
    deadline_s: float,
    folder: str,
    course: Mapping[str, Any],
) -> dict[str, Any]:
    """Train by FSDP, or by DDP where PyTorch has no FSDP; save a checkpoint; kill the last rank within the next step.

    It is killed while its device is idle: a GPU that loses its process at work may log an error (Xid 45), for which
    some clusters take a node out of service.

    :param folder: that of the first node counts, and all nodes should see it; in it a folder of this job is made,
        which :func:`remove` removes.
    :param course: what is trained, as :func:`parallel_esm2.run` takes it.
    :return: nothing, as it should be: the last rank is dead, and all others miss it. Else one of: ``blind`` (the
        hosts that do not see what the first node writes; nothing was trained), ``broken`` (who could not write the
        checkpoint: ``rank``, ``host``, ``device``, ``error``), ``alive`` (nobody was missed).
    :raises Missed: in every other rank than the last.
    """
    import torch.distributed  # noqa: F401 - it takes seconds, in which a rank can give no sign of life

    with meet(name, place, deadline_s) as ranks:
        path = _agree(ranks, path_of(folder, place))
        if broken := _try(ranks, "making the folder", lambda: _make(ranks, path)):
            return {"broken": broken}
        if blind := _hosts_without(ranks, path):
            return {"blind": blind}
        plan = Course(ranks=ranks.size, **course)
        with ranks.group(), parallel_esm2.exact_float32():
            broken = _save_and_go_on(ranks, Pupil(plan, ranks.rank, _strategy()), path)
    return {"broken": broken} if broken else {"alive": True}


def _save_and_go_on(ranks: Meeting, pupil: Pupil, path: Path) -> list[dict[str, Any]]:
    steps = pupil.course.steps
    pupil.train(ranks, range(steps))
    broken = _try(ranks, "saving the checkpoint", lambda: _save(pupil, ranks, path))
    if not broken:
        ranks.step(KILLED_IN)
        if ranks.rank == ranks.size - 1:
            timing.synchronize()
            os.kill(os.getpid(), signal.SIGKILL)
        pupil.step(steps)
    return broken


def resume(
    place: Mapping[str, Any],
    name: str,
    deadline_s: float,
    folder: str,
    course: Mapping[str, Any],
) -> dict[str, Any]:
    """Load what :func:`interrupt` saved after the course into a model of other weights, and train as many more.

    :return: ``broken`` as of :func:`interrupt`, of reading; else ``ranks``, ``strategy``, ``changed`` (the ranks
        whose part was loaded with other bits than it was saved: ``rank``, ``host``, ``device``), ``bytes`` (of the
        checkpoint), ``save_s`` and ``load_s`` (the slowest rank's seconds), and what :func:`parallel_esm2.compare`
        gives of the steps after the break.
    :raises Missed: if a rank is missed.
    """
    import torch.distributed  # noqa: F401 - as above

    with meet(name, place, deadline_s) as ranks:
        path = _agree(ranks, path_of(folder, place))
        plan = Course(ranks=ranks.size, **course)
        whole = replace(plan, steps=2 * plan.steps)
        ranks.step("training alone")
        expected = parallel_esm2.alone(whole)
        with ranks.group(), parallel_esm2.exact_float32():
            fresh = plan.seed + _OTHER_SEED
            return _load_and_go_on(ranks, Pupil(whole, ranks.rank, _strategy(), fresh), path, plan.steps, expected)


def _load_and_go_on(ranks: Meeting, pupil: Pupil, path: Path, first: int, expected: Alone) -> dict[str, Any]:
    began = time.monotonic()
    if broken := _try(ranks, "loading the checkpoint", lambda: _load(pupil, path)):
        return {"broken": broken}
    took = time.monotonic() - began
    saved = json.loads(_record_of(path, ranks.rank).read_text())
    told = ranks.share("loaded", [_checksum(pupil) != saved["checksum"], saved["seconds"], took])
    losses = pupil.train(ranks, range(first, pupil.course.steps))
    changed = [vars(ranks.ranks[rank]) for rank, (is_changed, _, _) in enumerate(told) if is_changed]
    return {
        "ranks": ranks.size,
        "strategy": _strategy(),
        "changed": [{key: rank[key] for key in ("rank", "host", "device")} for rank in changed],
        "bytes": sum(file.stat().st_size for file in path.glob("*.distcp")),
        "save_s": max(seconds for _, seconds, _ in told),
        "load_s": max(seconds for _, _, seconds in told),
        **parallel_esm2.compare(ranks, losses, expected, first=first),
    }


def remove(folder: str, place: Mapping[str, Any]) -> dict[str, bool]:
    """Remove what is left of this job's checkpoint: ``{"removed": True}`` once it is gone."""
    path = path_of(folder, place)
    shutil.rmtree(path, ignore_errors=True)
    return {"removed": not path.exists()}


def path_of(folder: str, place: Mapping[str, Any]) -> Path:
    """The folder of the checkpoint of these ranks: others of this node, or of this array, meet elsewhere."""
    here = Place(**place)
    # An id can be of any length, and a name cannot.
    meeting = sha256(here.job.encode(errors="surrogateescape")).hexdigest()[:12]
    return Path(folder) / f".bionemo-checkpoint-{quote(here.host, safe='')}-{here.port}-{meeting}"


def _agree(ranks: Meeting, path: Path) -> Path:
    """That of the first rank."""
    return Path(ranks.share("folder", str(path))[0])


def _strategy() -> str:
    return "ddp" if parallel_esm2.lack_of("fsdp") else "fsdp"


def _try(ranks: Meeting, what: str, work: Callable[[], object]) -> list[dict[str, Any]]:
    """Do what every rank does with files, and tell each other who could not."""
    from torch.distributed.checkpoint.api import CheckpointException

    ranks.step(what)
    errors: dict[str, str] = {}
    try:
        work()
    except CheckpointException as error:  # in every rank, of what went wrong in one
        errors = {str(rank): _last_line(cause[0]) for rank, cause in error.failures.items()}
    except OSError as error:
        errors = {str(ranks.rank): str(error)}
    told = {rank: error for one in ranks.share(f"done: {what}", errors) for rank, error in one.items()}
    places = [ranks.ranks[int(rank)] for rank in sorted(told, key=int)]
    return [
        {"rank": place.rank, "host": place.host, "device": place.device, "error": f"{what}: {told[str(place.rank)]}"}
        for place in places
    ]


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def _make(ranks: Meeting, path: Path) -> None:
    if ranks.rank == 0:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        (path / _MARK).write_text(str(time.time_ns()))


def _hosts_without(ranks: Meeting, path: Path) -> list[str]:
    """The hosts that do not see the folder that the first rank has made."""
    mark = path / _MARK
    told = ranks.share("wrote", mark.read_text() if ranks.rank == 0 else None)[0]
    answers = ranks.share("sees the folder", _sees(mark, told))
    return list(dict.fromkeys(rank.host for rank, sees in zip(ranks.ranks, answers, strict=True) if not sees))


def _sees(mark: Path, text: str) -> bool:
    end = time.monotonic() + _VISIBLE_WITHIN_S
    while True:
        with suppress(OSError):  # it is not there yet
            if mark.read_text() == text:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(_GLANCE_S)


def _save(pupil: Pupil, ranks: Meeting, path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    began = time.monotonic()
    save(_state(pupil), checkpoint_id=str(path))
    record = {"checksum": _checksum(pupil), "seconds": time.monotonic() - began}
    with _record_of(path, ranks.rank).open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())


def _load(pupil: Pupil, path: Path) -> None:
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _state(pupil)
    load(state, checkpoint_id=str(path))
    set_state_dict(
        pupil.network,
        pupil.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )


def _state(pupil: Pupil) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = get_state_dict(pupil.network, pupil.optimizer)
    return {"model": model, "optimizer": optimizer}


def _record_of(path: Path, rank: int) -> Path:
    return path / f"rank-{rank}.json"


def _checksum(pupil: Pupil) -> int:
    """Of every bit that this rank holds of parameters, buffers and moments: one bit that differs changes it."""
    import torch

    total = 0
    for tensor in _tensors(pupil):
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        values = local.detach().contiguous().view(-1).view(torch.uint8).long()
        # Odd weights: a difference of one byte is not lost modulo 2**64, in which integers of torch wrap around.
        weights = 2 * torch.arange(len(values), device=values.device) + 1
        total = (31 * total + int((values * weights).sum())) % 2**61
    return total


def _tensors(pupil: Pupil) -> Iterator[torch.Tensor]:
    import torch

    yield from pupil.network.parameters()
    yield from pupil.network.buffers()
    for group in pupil.optimizer.param_groups:
        for parameter in group["params"]:
            kept = pupil.optimizer.state.get(parameter, {})
            yield from (kept[name] for name in sorted(kept) if isinstance(kept[name], torch.Tensor))
