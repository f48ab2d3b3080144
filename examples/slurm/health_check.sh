#!/bin/bash
# slurm.conf: HealthCheckProgram=/etc/slurm/health_check.sh, HealthCheckInterval=300, HealthCheckNodeState=IDLE
#
# slurmd ends it after 60 s. It drains the node that it runs on, with the reason, and leaves it to somebody to resume it.
# IDLE: what looks at GPUs beside a job costs that job a little.

reason=$("$(dirname "$(readlink -f "$0")")/check_node.sh") && exit 0
exec scontrol update nodename="${SLURMD_NODENAME:-$(hostname -s)}" state=drain reason="$reason"
