#!/bin/bash
# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
#
# Training on several nodes under SLURM, submitted from the repository's root:
#
#     sbatch --nodes 4 examples/launch/slurm.sh examples/recipes/pretrain_vit_b32.yaml --output_dir outputs/vit_b32 \
#         --dataset "pairs/{00000..09999}.tar" --pairs_per_epoch 400000000
#
# What follows the script's name goes to `clip-hf train`. Two minutes before the time is up SLURM signals this
# script, which hands the signal on: the training saves a checkpoint and ends with exit code 0, and the job goes back
# into the queue, where `--resume latest` continues at the next step. A training that comes to its end is not queued
# again, nor is one that fails.

#SBATCH --job-name clip_hf
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 8
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 12
#SBATCH --time 12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output %x_%j.log

set -euo pipefail

# What torch.distributed asks for. SLURM starts one process a GPU, with no launcher in between: torchrun and `accelerate
# launch` kill their processes 30 seconds after a signal, which may be too soon for a checkpoint.
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${NODES[0]}
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # the job's own, in case that two share a node
export MASTER_ADDR MASTER_PORT WORLD_SIZE=$SLURM_NTASKS OMP_NUM_THREADS=1

SIGNALLED=0
# All processes get it, but not this script. Set before they start, so that no signal finds the script without it.
trap 'SIGNALLED=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM

# The numbers of a process are known only where it runs, so these are expanded there.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1}
    exec python -m clip_hf train "$@" --resume latest
' bash "$@" &
STEP=$!

CODE=0
wait "$STEP" || CODE=$?
if ((SIGNALLED)); then
    # The signal ended the first `wait`; the training ends when its checkpoint is written.
    CODE=0
    wait "$STEP" || CODE=$?
    if ((CODE == 0)); then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$CODE"
