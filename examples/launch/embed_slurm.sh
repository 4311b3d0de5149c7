#!/bin/bash
# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
#
# Embedding with an array of jobs under SLURM, submitted from the repository's root:
#
#     sbatch --array 0-15 examples/launch/embed_slurm.sh MODEL SOURCE DESTINATION
#
# What follows the script's name goes to `clip-hf embed`. Each job of the array embeds its share of the parts. A minute
# before its time is up SLURM signals this script, which ends the embedding and puts the job back into the queue, where
# it goes on with what is missing. A job that fails is not queued again: start any array once more, and it embeds what is
# missing. Model, source and destination must be on a file system that all nodes share.

#SBATCH --job-name embed
#SBATCH --nodes 1
#SBATCH --ntasks 1
#SBATCH --cpus-per-task 8
#SBATCH --gpus-per-node 1
#SBATCH --time 04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output %x_%A_%a.log

set -euo pipefail

# Shares count from 0; an array may be 1-16 or 0-30:2.
FIRST=${SLURM_ARRAY_TASK_MIN:-0}
STEP=${SLURM_ARRAY_TASK_STEP:-1}
COUNT=${SLURM_ARRAY_TASK_COUNT:-1}
INDEX=$(((${SLURM_ARRAY_TASK_ID:-0} - FIRST) / STEP))
if (((${SLURM_ARRAY_TASK_MAX:-0} - FIRST) / STEP + 1 != COUNT)); then
    echo "The array has gaps, so its shares cannot be counted: use one such as 0-15." >&2
    exit 2
fi

SIGNALLED=0
trap 'SIGNALLED=1' TERM
python -m clip_hf embed "$@" --shard "$INDEX/$COUNT" --num-threads "${SLURM_CPUS_PER_TASK:-8}" &
EMBEDDING=$!

CODE=0
((SIGNALLED)) || wait "$EMBEDDING" || CODE=$?
if ((SIGNALLED)); then
    # The signal ended the first `wait`, unless the embedding was at its end.
    CODE=0
    kill -TERM "$EMBEDDING" 2>/dev/null || true
    wait "$EMBEDDING" || CODE=$?
    if ((CODE == 128 + 15)); then
        scontrol requeue "$SLURM_JOB_ID"
        CODE=0
    fi
fi
exit "$CODE"
