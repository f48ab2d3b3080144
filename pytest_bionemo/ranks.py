"""All devices of this node as ranks of one job, as a check sees them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from pytest_bionemo.checking import fail, wait_for
from pytest_bionemo.compute import WORKLOADS, Compute
from pytest_bionemo.model import Action
from pytest_bionemo.worker import Numbers, Trouble, Workers, WorkloadFailed
from pytest_bionemo.workloads.meeting import Place

MEET = "collectives:say_hello"
"""The workload by which ranks meet for the first time."""


@dataclass
class Encounter:
    """What the checks of a run know together about the ranks: where they meet, and what ended that for good.

    ``is_absent`` says whether the others were told that this node does not take part.
    """

    place: Place
    ended_by: str | None = None
    is_absent: bool = False


def leaving_out(place: Place, hosts: Sequence[str]) -> str:
    """How to start the job without these nodes. Only a scheduler that has said which nodes there are takes names."""
    return f"leave it out: $ srun --exclude={','.join(hosts)}" if place.hosts else "leave it out of the job"


class Ranks:
    """The ranks of this node among those of the job.

    ``devices`` are in the order of their local ranks.
    """

    def __init__(self, devices: Sequence[Compute], workers: Workers, encounter: Encounter, timeout: float) -> None:
        self.devices = tuple(devices)
        self.place = encounter.place
        self._encounter = encounter
        self._workers = workers
        self._timeout = timeout

    @property
    def is_rehearsal(self) -> bool:
        """Whether the ranks are on the CPU."""
        return self.devices[0].is_rehearsal

    @property
    def nodes(self) -> int | None:
        """How many nodes measure together what is measured here; None for the devices of this one alone."""
        return self.place.nodes if self.place.nodes > 1 else None

    @property
    def first(self) -> Compute:
        """The device of local rank 0: what all ranks measure alike is put into the report as its own."""
        return self.devices[0]

    def run(
        self, workload: str, here: Mapping[str, Any] = MappingProxyType({}), /, **parameters: Any
    ) -> list[Numbers]:
        """The numbers of a workload that meets, from each device of this node, in their order.

        The workload is given ``place``, ``name`` (of the meeting) and ``deadline_s`` besides the parameters, which
        are the same on every node; those in ``here`` may differ. Where a rank of this node does not answer, the
        check ends with a finding about its device; where one of another node is missed, with one that blames that
        node. After that no rank meets again: every further meeting could cost a whole deadline.

        """
        __tracebackhide__ = True
        answers = self.outcomes(workload, here, **parameters)
        failures = [(device, answer) for device, answer in answers if isinstance(answer, WorkloadFailed)]
        # What another rank says of a device of this node is known better here.
        for device, failure in sorted(failures, key=lambda pair: pair[1].trouble is Trouble.MISSED):
            self.explain(device, failure, workload)
        return [answer for _, answer in answers if not isinstance(answer, WorkloadFailed)]

    def outcomes(
        self, workload: str, here: Mapping[str, Any] = MappingProxyType({}), /, **parameters: Any
    ) -> list[tuple[Compute, Numbers | WorkloadFailed]]:
        """As :meth:`run`, for a workload that ends some ranks on purpose: how it ended on each device of this node.

        :param here: parameters that may differ from node to node.
        """
        __tracebackhide__ = True
        if self._encounter.ended_by:
            wait_for(None, self._encounter.ended_by)
        return self._collect(workload, parameters, here)

    def explain(self, device: Compute, failure: WorkloadFailed, workload: str) -> NoReturn:
        """End the check with a finding about this device, or about the rank that it missed.

        :raises WorkloadFailed: the failure, if nothing is known of it.
        """
        __tracebackhide__ = True
        self._encounter.ended_by = f"the ranks did not come to the end of {workload.partition(':')[0]}"
        if failure.trouble is Trouble.MISSED:
            self._fail(workload, failure)
        device.explain(failure, workload)
        if failure.trouble is Trouble.ERROR:
            # The others miss this rank, and say so in findings of their own.
            fail(
                f"{device}: the workload {workload.partition(':')[0]} broke off: {failure.text}",
                why="a training over these devices would end there, and take all ranks along",
                fix="look at the findings of torch and stack on this node, and install what the others have",
                action=Action.FIX_SOFTWARE,
            )
        raise failure

    def lacking(self, lack: str | None) -> list[str]:
        """What other nodes lack to take part in what follows, each with its name: all nodes have to ask.

        :param lack: why this node cannot; None if it can.
        """
        __tracebackhide__ = True
        if self.nodes is None:
            return []
        found = self.run("collectives:confer", {"lack": lack})[0]["lacks"]
        return [f"{host}: {why}" for host, why in found if host != self.place.host]

    def meets(self, workload: str, /, **parameters: Any) -> bool:
        """Whether it gives numbers on every device of this node."""
        return not any(isinstance(answer, WorkloadFailed) for _, answer in self._collect(workload, parameters))

    def _collect(
        self, workload: str, parameters: Mapping[str, Any], here: Mapping[str, Any] = MappingProxyType({})
    ) -> list[tuple[Compute, Numbers | WorkloadFailed]]:
        wanted = {**parameters, "deadline_s": self._timeout}
        # The same on every node, and another one for other parameters.
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]
        wanted |= {**here, "place": self.place.to_json(), "name": f"{workload} {digest}"}
        return [(device, self._answer(device, workload, wanted)) for device in self.devices]

    def _answer(self, device: Compute, workload: str, wanted: dict[str, Any]) -> Numbers | WorkloadFailed:
        try:
            return self._workers.run(device.label, WORKLOADS + workload, **wanted)
        except WorkloadFailed as failure:
            return failure

    def _fail(self, workload: str, failure: WorkloadFailed) -> NoReturn:
        __tracebackhide__ = True
        others = [host for host in failure.blames if host != self.place.host]
        named = ", ".join(others)
        fixes = [
            f"look at the report of {named}, and at its kernel log",
            f"or {leaving_out(self.place, others)}",
        ]
        fail(
            f"{workload.partition(':')[0]}: {failure.text}",
            why="a training over these nodes would hang or end there, and hold all the others",
            fix=fixes if others else "run it again: which rank is at fault could not be seen",
            # What all nodes say alike of nobody must not reboot all of them.
            action=Action.REBOOT_NODE if failure.blames and not self.is_rehearsal else Action.FIX_SOFTWARE,
            blames=others if self.place.host not in failure.blames else (),
        )
