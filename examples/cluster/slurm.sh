#!/bin/bash
# Certify what settings.yaml says in a Slurm array of 64 shards, then merge them:
#
#   merge=$(sbatch --parsable --array=1-64 slurm.sh)
#   sbatch --dependency=afterok:$merge slurm.sh merge
#
# A task that is preempted or killed goes on where it stopped when it is requeued.
#SBATCH --job-name=deqcert
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --constraint=icelake        # one kind of processor: the last bit of a state may depend on it
set -euo pipefail

RUN=${RUN:-runs/cifar10}            # on a file system that all nodes share
SETTINGS=${SETTINGS:-settings.yaml}
SHARDS=${SHARDS:-64}                # as many as the array has tasks

if [[ ${1:-} == merge ]]; then
    exec deqcert merge "$RUN"/shard-* --out "$RUN/whole"
fi
exec deqcert certify --config "$SETTINGS" --threads "$SLURM_CPUS_PER_TASK" \
    --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" --out "$RUN/shard-$SLURM_ARRAY_TASK_ID" --quiet
