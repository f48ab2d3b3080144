#!/bin/bash
# Validate every node of a list, by one job array: for 1,000 to 10,000 nodes, busy ones among them.
#
#   ./validate_fleet.sh 'node[1-1000]'                            # any option of pytest may follow
#   CHUNK=64 AT_ONCE=8 ./validate_fleet.sh 'node[1-10000]'
#
# Each task of the array is given CHUNK nodes by name and waits until these are free; AT_ONCE tasks run at a time, which
# bounds the load on a shared file system. A node that is down keeps its task from starting: take it out of the list.
# Variables: those of validate.sbatch, too.

set -eu
nodes=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
mapfile -t names < <(scontrol show hostnames "$nodes" | sort -u -V)
chunk=${CHUNK:-32}
tasks=$(((${#names[@]} + chunk - 1) / chunk))

# Held, until each task has been told its nodes.
job=$(sbatch --parsable --hold --array="0-$((tasks - 1))%${AT_ONCE:-$tasks}" --nodes=1 "$here/validate.sbatch" "$@")
trap 'scancel "$job"' ERR
for ((task = 0; task < tasks; task++)); do
    mine=("${names[@]:task*chunk:chunk}")
    scontrol update jobid="${job}_$task" numnodes="${#mine[@]}-${#mine[@]}" reqnodelist="$(IFS=, && echo "${mine[*]}")"
done
sbatch --parsable --dependency="afterany:$job" "$here/fold.sbatch" "$job" "$nodes" >/dev/null
scontrol release "$job"
echo "$job"
