#!/usr/bin/env bash
# Train on nodes of a Slurm cluster: one Ray cluster for the length of the job.
#
#   sbatch --nodes=2 clusters/slurm.sh --config something-v1-t8 --workers 8 --train.storage "$SCRATCH/runs"
#
# Arguments are those of `stm train`. Run it from the folder of the virtual environment (.venv) or activate one; that
# folder, the storage and the home folder must be the same on all nodes. A job that is requeued continues its run,
# since the recipe names it. Two minutes before its time is over, and on `scancel --batch --signal=TERM JOB`, the run
# keeps a checkpoint of the next step and ends with status 143; submitted again, it continues there.

#SBATCH --job-name=stm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=48
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120

set -euo pipefail

if [ -z "${VIRTUAL_ENV:-}" ] && [ -f .venv/bin/activate ]; then
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

# Every node shows the token; it lies in the home folder, readable by its owner alone.
export RAY_AUTH_MODE=token
(umask 077 && ray get-auth-token --generate > /dev/null)
# Nodes of a large job start minutes apart; the default is 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

# The address, not the name: on some systems a host's own name means 127.0.1.1.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))

# Slurm sends TERM to this script alone ("B:" above), as it would end Ray with the run; the run is told from here.
running=$(mktemp)
trap 'kill -TERM "$(cat "$running")" 2> /dev/null || true' TERM
trap 'rm -f "$running"' EXIT

# Starts Ray on every node, runs the command on the first, and stops Ray when it ends: every Ray of yours on those
# nodes, hence --exclusive above.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
  -- bash -c 'echo $$ > "$0"; exec stm train --address auto "$@"' "$running" "$@" &
job=$!
# A trapped signal ends `wait`, not the job.
while wait "$job" && status=0 || status=$?; kill -0 "$job" 2> /dev/null; do :; done
exit "$status"
