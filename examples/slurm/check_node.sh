#!/bin/bash
# Is this node fit for the next job? Exits 1, with the reason as one line, if a check of its hardware or driver failed.
#
# Used by prolog.sh and health_check.sh, which slurmd runs as root: a few seconds, no GPU kernel, no shared file system.
# What cannot be told (no answer in time, a check that did not run) is no reason to take a node away: exit 0.
# PYTHON is an environment on the node's own disk with pytest-bionemo alone; it needs no torch.

python=${PYTHON:-/opt/pytest-bionemo/bin/python}
state=${STATE:-/var/lib/pytest-bionemo}
mkdir -p "$state" || exit 0
cd "$state" || exit 0

# Not into the log of the node: an agent that looks for errors of the driver there would act on what this quotes.
line=$(
    timeout --kill-after=5 45 "$python" -m pytest_bionemo validate --bionemo-level quick --bionemo-timeout 30 \
        --bionemo-report "$state/report.json" --bionemo-hyperpod-line -p no:cacheprovider -q \
        bionemo/driver bionemo/health "$@" 2>/dev/null </dev/null | tail -n 1
)
case $line in
HEALTH_CHECK_RESULT:*:Failed:*)
    IFS=: read -r _ _ _ remedy reason <<<"$line"
    echo "bionemo: $remedy: $reason"
    exit 1
    ;;
esac
exit 0
