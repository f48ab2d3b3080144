"""What the ranks of a job, or the devices of a node, exchange: right or not, how fast, and over which network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pytest_bionemo import judging
from pytest_bionemo.checking import fail, not_applicable, wait_for
from pytest_bionemo.judging import Judgement, Limits, Word
from pytest_bionemo.model import Action, count
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.ranks import MEET, Ranks
from pytest_bionemo.rulers import collective_bound, collective_limits, link_between
from pytest_bionemo.worker import Numbers

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_EXACT = "the operands are integers whose sums are exact: a training would compute wrong gradients, and not notice"


def require_meeting(ranks: Ranks) -> None:
    """All ranks form a group and add up, or the check ends with a finding."""
    __tracebackhide__ = True
    for device, found in zip(ranks.devices, ranks.run(MEET), strict=True):
        if found["sum"] != found["size"]:
            fail(
                f"{device}: 1 summed up over {found['size']} ranks is {found['sum']:g}",
                why=_EXACT,
                fix="reinstall PyTorch, or take the node out of use if only this one says so",
                action=_replace(ranks, ranks.place.nodes == 1),
            )


def judge_operation(ranks: Ranks, operation: str, prefix: str) -> None:
    """Compare the values of a collective with the right ones, and its bandwidth with the bound of the link."""
    __tracebackhide__ = True
    first = ranks.first
    parameters = {
        "operation": operation,
        "sizes": first.size(
            rehearsal=[_KIB, 256 * _KIB, 4 * _MIB],
            standard=[8 * _KIB, _MIB, 64 * _MIB, 256 * _MIB],
            full=[8 * _KIB, _MIB, 64 * _MIB, 256 * _MIB, _GIB, 4 * _GIB],
        ),
        "budget_s": first.size(rehearsal=0.05, standard=0.3),
    }
    found = ranks.run("collectives:run", **parameters)
    if not all(numbers["found_flip"] for numbers in found):
        wait_for(
            None, f"a bit that was flipped on purpose in {operation} was not seen: its comparison proves nothing"
        )
    hosts = ranks.run(MEET)[0]["hosts"]
    if found[0]["wrong"]:
        _fail_wrong(ranks, operation, found[0]["wrong"], hosts)
    _judge_bandwidth(ranks, operation, prefix, found[0]["timings"])


def require_peers(ranks: Ranks) -> None:
    """Where the model has NVLink, NCCL goes over it and not through the memory of the host."""
    __tracebackhide__ = True
    if ranks.is_rehearsal:
        not_applicable("a processor has no peers")
    model = ranks.first.model
    if model is None or not model.nvlink_gbs or model.nvlink_bridge:
        not_applicable(f"that {ranks.first} has NVLink to the others is not on record")
    ways = {pair: way for found in ranks.run(MEET) for pair, way in found["network"]["ways"].items()}
    if not ways:
        wait_for(None, "NCCL's log does not say how the devices reach each other")
    around = {pair: way for pair, way in ways.items() if not way.startswith(("P2P", "NVLS"))}
    if around:
        pair, way = next(iter(around.items()))
        fail(
            f"NCCL goes from rank {pair.replace('-', ' to rank ')} via {way}, and so for {len(around)} of "
            f"{len(ways)} pairs of {model.name}, which NVLink joins",
            why="what the GPUs exchange goes through the memory of the host, at a tenth of the speed",
            fix=[
                "$ unset NCCL_P2P_DISABLE NCCL_P2P_LEVEL",
                "look at the fabric manager: $ systemctl status nvidia-fabricmanager",
                "and at the links: $ nvidia-smi nvlink -s",
            ],
            action=Action.REBOOT_NODE,
        )


def judge_pairs(ranks: Ranks) -> None:
    """The bandwidth matrix: every pair against the bound of its link and against the median of all pairs."""
    __tracebackhide__ = True
    first = ranks.first
    parameters = {
        "size_bytes": first.size(rehearsal=4 * _MIB, standard=256 * _MIB),
        "budget_s": first.size(rehearsal=0.05, standard=0.1),
    }
    pairs = ranks.run("collectives:matrix", **parameters)[0]["pairs"]
    _require_right_pairs(ranks, pairs)
    bound, limits = link_between(first), _pair_limits(ranks)
    median = statistics.median(pair["rate"]["value"] for pair in pairs)
    slow = []
    for pair in pairs:
        rate, source = pair["rate"], ranks.devices[pair["source"]]
        name = f"send_to_{ranks.devices[pair['target']].name.replace('-', '_')}"
        judgement = judging.judge(
            rate["value"], ci95=rate["ci95"], bound=bound, bound_limits=collective_limits(first, 1),
            peers=[median] if limits else [], peer_limits=limits,
            **source.earlier_rulers(name, "GB/s", judging.PRETENDED_PAIRS),
        )  # fmt: skip
        source.measure(name, rate["value"], "GB/s", samples=rate["samples"], ci95=rate["ci95"],
                       bound=bound, peer_median=median, judgement=judgement.word.value)  # fmt: skip
        if judgement.word in (Word.UNTRUSTED, Word.LOW, Word.DEGRADED):
            slow.append((pair, judgement))
    if slow:
        _fail_pairs(ranks, slow, median)


def _require_right_pairs(ranks: Ranks, pairs: Sequence[Mapping[str, Any]]) -> None:
    __tracebackhide__ = True
    if wrong := [pair for pair in pairs if pair["wrong"]]:
        one = wrong[0]
        source, target = ranks.devices[one["source"]], ranks.devices[one["target"]]
        fail(
            f"from {source} to {target} {one['wrong']} of {one['of']} numbers arrive wrong, and so between "
            f"{len(wrong)} of {len(pairs)} pairs{_in_common(ranks, wrong)}",
            why=_EXACT,
            fix="take the node out of use",
            action=_replace(ranks),
        )


def _fail_pairs(ranks: Ranks, slow: Sequence[tuple[Mapping[str, Any], Judgement]], median: float) -> NoReturn:
    __tracebackhide__ = True
    pair, judgement = min(slow, key=lambda one: list(Word).index(one[1].word))
    source, target = ranks.devices[pair["source"]], ranks.devices[pair["target"]]
    is_low = judgement.word is not Word.DEGRADED
    fail(
        f"from {source} to {target}: {pair['rate']['value']:.4g} GB/s, {judgement.because} (median of all pairs "
        f"{median:.4g} GB/s), and so for {len(slow)} of {len(ranks.devices) * (len(ranks.devices) - 1)} pairs"
        f"{_in_common(ranks, [one for one, _ in slow])}",
        why="training on several GPUs waits for their slowest link",
        fix=["look at the links: $ nvidia-smi topo -m ; nvidia-smi nvlink -s ; nvidia-smi nvlink -e",
             "reset the GPUs or reboot the node, and run the check again"],
        action=_replace(ranks) if is_low else Action.NONE,
        severity=None if is_low else "warning",
    )  # fmt: skip


def _in_common(ranks: Ranks, pairs: Sequence[Mapping[str, Any]]) -> str:
    both = [{pair["source"], pair["target"]} for pair in pairs]
    common = sorted(set.intersection(*both)) if len({frozenset(one) for one in both}) > 1 else []
    return f": all of them have {ranks.devices[common[0]]}" if common else ""


def _pair_limits(ranks: Ranks) -> Limits | None:
    """Pairs that a switch joins are all alike; over PCIe those of one socket are faster than those across two."""
    if ranks.is_rehearsal:
        return judging.PRETENDED_PAIRS
    model = ranks.first.model
    return judging.FEW if model and model.nvlink_gbs and not model.nvlink_bridge else None


def suspects(wrong: Sequence[Mapping[str, Any]]) -> list[int]:
    """The ranks that take part in everything that came out wrong; none where no rank does.

    A part that arrives wrong was spoiled by who sent it or who received it. Where one rank's parts are wrong with
    everybody else, it sends them so; where one receives all of its parts wrong, it does.
    """
    pairs = [{one["rank"], one["rank"] if one["source"] is None else one["source"]} for one in wrong]
    return sorted(set.intersection(*pairs)) if pairs else []


def judge_network(used: Numbers, fabric: Fabric) -> None:
    """End the check with a finding where the network that is used is slower than one that the node has."""
    __tracebackhide__ = True
    if used["name"] is None:
        not_applicable(
            "NCCL was told by NCCL_DEBUG to write its log elsewhere: it does not say which network it uses"
        )
    if used["name"] == "gloo":  # it knows nothing but sockets
        _judge_interfaces(used)
    if used["name"] != "Socket":
        return
    if fabric.efa:
        said = f" ({used['plugin']})" if used["plugin"] else ""
        fail(
            f"NCCL uses TCP sockets{said}; this node has {count(len(fabric.efa), 'EFA adapter')}",
            why="traffic between nodes is many times slower than over EFA, and so is training on several nodes",
            fix=[
                "put the plugin of aws-ofi-nccl on the library path: "
                "$ export LD_LIBRARY_PATH=/opt/amazon/ofi-nccl/lib:/opt/amazon/efa/lib:$LD_LIBRARY_PATH",
                "and fail at once without it: $ export NCCL_NET=Libfabric",
            ],
        )
    active = [adapter.name for adapter in fabric.adapters for port in adapter.ports if port.state == "ACTIVE"]
    if active:
        fail(
            f"NCCL uses TCP sockets; this node has RDMA adapters with a link: {', '.join(dict.fromkeys(active))}",
            why="traffic between nodes is many times slower than over RDMA, and so is training on several nodes",
            fix=[
                "unset NCCL_IB_DISABLE and NCCL_NET, and give the container /dev/infiniband",
                "install the user-space libraries for RDMA (libibverbs)",
            ],
        )
    _judge_interfaces(used)


def _judge_interfaces(used: Numbers) -> None:
    __tracebackhide__ = True
    speeds: Mapping[str, int] = used["speeds"]
    own = [speeds[name] for name in used["interfaces"] if name in speeds]
    if own and max(speeds.values()) > max(own):
        fastest = max(speeds, key=lambda name: speeds[name])
        fail(
            f"the ranks talk over {', '.join(used['interfaces'])} at {max(own) / 1000:g} Gbit/s; {fastest} of this "
            f"node has {speeds[fastest] / 1000:g} Gbit/s",
            why="training on several nodes waits for the network",
            fix=f"$ export NCCL_SOCKET_IFNAME={fastest} GLOO_SOCKET_IFNAME={fastest}",
        )


def _fail_wrong(ranks: Ranks, operation: str, wrong: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> NoReturn:
    __tracebackhide__ = True
    found = suspects(wrong)
    one = wrong[0]
    source = "" if one["source"] is None else f" from rank {one['source']} ({hosts[one['source']]})"
    named = ", ".join(f"rank {rank} ({hosts[rank]})" for rank in found)
    own = ranks.place.host
    guilty = sorted({hosts[rank] for rank in found})
    fail(
        f"{operation} of {one['bytes']} bytes: rank {one['rank']} ({hosts[one['rank']]}) got {one['elements']} of "
        f"{one['of']} numbers wrong{source}: {one['got']}, expected {one['expected']:g}"
        + (f". All {len(wrong)} mistakes have {named} in common" if len(wrong) > 1 and found else ""),
        why=_EXACT,
        fix=[
            f"take {', '.join(guilty)} out of use" if guilty else "run it on fewer nodes, until it is gone",
            "or reinstall NCCL and PyTorch, if every node does it",
        ],
        action=_replace(ranks, bool(guilty) or ranks.place.nodes == 1),
        blames=guilty if guilty and own not in guilty else (),
    )


def _judge_bandwidth(ranks: Ranks, operation: str, prefix: str, timings: Sequence[Mapping[str, Any]]) -> None:
    __tracebackhide__ = True
    latency = timings[0]["seconds"]
    first = ranks.first
    first.measure(f"{prefix}_{operation}_latency", latency["value"], "s", samples=latency["samples"],
                  ci95=latency["ci95"], nodes=ranks.nodes)  # fmt: skip
    best = max(timings, key=lambda timed: timed["rate"]["value"])["rate"]
    bound = collective_bound(first, operation, ranks.run(MEET)[0]["size"], ranks.place.nodes)
    name = f"{prefix}_{operation}_bus"
    judgement = judging.judge(
        best["value"], ci95=best["ci95"], bound=bound, bound_limits=collective_limits(first, ranks.place.nodes),
        **first.earlier_rulers(name, "GB/s", judging.PRETENDED_PAIRS),
    )  # fmt: skip
    first.measure(name, best["value"], "GB/s", samples=best["samples"], ci95=best["ci95"],
                  bound=bound, judgement=judgement.word.value, nodes=ranks.nodes)  # fmt: skip
    if judgement.word is Word.UNTRUSTED:
        fail(
            f"{operation}: a bus bandwidth of {best['value']:.4g} GB/s is faster than physics, whose bound is "
            f"{bound or 0:.4g} GB/s. The measurement is broken",
            why="a clock that runs wrong, or work that is not done: no number of this node can be trusted",
            fix="run the check again after a reboot",
            action=Action.REBOOT_NODE,
        )
    if judgement.word in (Word.LOW, Word.DEGRADED):
        middle = statistics.fmean(best["ci95"])
        before = first.earlier(name, "GB/s")
        rulers = {"earlier value": before.value if before else None, "bound": bound}
        said = ", ".join(f"{ruler} {value:.4g} GB/s" for ruler, value in rulers.items() if value)
        fail(
            f"{operation}: a bus bandwidth of {best['value']:.4g} GB/s (about {middle:.4g}), {judgement.because} "
            f"({said})",
            why="training on several GPUs waits for their links",
            fix=[
                "look at the links: $ nvidia-smi topo -m ; nvidia-smi nvlink -s",
                "look for NCCL variables that forbid them (NCCL_P2P_DISABLE, NCCL_P2P_LEVEL): $ env | grep NCCL_",
            ],
            action=_replace(ranks) if judgement.word is Word.LOW else Action.NONE,
            severity=None if judgement.word is Word.LOW else "warning",
        )


def _replace(ranks: Ranks, is_node_known: bool = True) -> Action:
    # No GPU took part in a rehearsal; and what all nodes say alike must not take all of them out of use.
    return Action.REPLACE_NODE if is_node_known and not ranks.is_rehearsal else Action.FIX_SOFTWARE
