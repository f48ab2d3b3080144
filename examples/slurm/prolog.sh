#!/bin/bash
# slurm.conf: Prolog=/etc/slurm/prolog.sh and PrologFlags=Alloc
#
# Where this fails, Slurm drains the node and puts the job back into the queue, to start on other nodes.

exec "$(dirname "$(readlink -f "$0")")/check_node.sh"
