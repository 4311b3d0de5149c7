#!/bin/bash
# Embeds many images with an array of jobs: `sbatch --array 0-15 examples/launch/embed_slurm.sh MODEL SOURCE DESTINATION`.
# Each job of the array does its share of the parts. A job that failed or ran out of time is put back by --requeue, or
# start the same array again: only what is missing is embedded. Edit the lines below for your cluster.
#SBATCH --job-name=embed
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=embed-%A_%a.log

set -euo pipefail

# Model, source and destination must be on a file system that all nodes share. Shares count from 0, so does the array.
exec python -m clip_hf embed "$@" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --num-threads "${SLURM_CPUS_PER_TASK:-8}"
