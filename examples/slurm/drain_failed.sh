#!/bin/bash
# Drain the nodes that failed, from the lines of a fleet on standard input:
#
#   python -m pytest_bionemo fleet bionemo-reports/job-1234 --print hyperpod | ./drain_failed.sh          # shows
#   python -m pytest_bionemo fleet bionemo-reports/job-1234 --print hyperpod | ./drain_failed.sh --apply  # does
#
# With --hyperpod, SageMaker HyperPod reboots or replaces those of which the line says so; the others are drained.
# A fault of the image or of the environment is on every node: of more than AT_MOST percent (10) none is drained.

set -u
apply= hyperpod=
for option in "$@"; do
    case $option in
    --apply) apply=yes ;;
    --hyperpod) hyperpod=yes ;;
    *) echo "error: '$option' is no option. Choose from: --apply, --hyperpod." >&2; exit 4 ;;
    esac
done

declare -i all=0
declare -A state=() reason=()  # with a value, or there is nothing to count where no node failed
while IFS=: read -r word host status remedy text; do
    [ "$word" = HEALTH_CHECK_RESULT ] || continue
    all+=1
    [ "$status" = Failed ] || continue
    state[$host]=drain reason[$host]="bionemo: $remedy: $text"
    case $hyperpod-$remedy in  # HyperPod takes exactly these words
    yes-reboot) state[$host]=fail reason[$host]="Action:Reboot" ;;
    yes-replace) state[$host]=fail reason[$host]="Action:Replace" ;;
    esac
done

((all)) || { echo "error: no line HEALTH_CHECK_RESULT:... came: was there a fleet?" >&2; exit 1; }
failed=${#state[@]}
if ((failed > 1 && failed * 100 > all * ${AT_MOST:-10})); then
    echo "error: $failed of $all nodes failed, more than ${AT_MOST:-10} %: is it the image? Set AT_MOST to go on." >&2
    exit 1
fi
# One that Slurm does not know, of a report from elsewhere, must not leave the others in use.
ended=0
for host in "${!state[@]}"; do
    update=(scontrol update nodename="$host" state="${state[$host]}" reason="${reason[$host]}")
    echo "${update[*]@Q}"
    [ -z "$apply" ] || "${update[@]}" || ended=1
done
exit "$ended"
