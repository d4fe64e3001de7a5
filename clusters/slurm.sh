#!/usr/bin/env bash
# Train on nodes of a Slurm cluster: it starts a Ray cluster for the duration of the job.
#
#   sbatch --nodes=2 --gpus-per-node=4 clusters/slurm.sh --config something-v1-t8 --workers 8 --train.storage "$SCRATCH/runs"
#
# Arguments are those of `stm train`. Run it from the folder of the virtual environment (.venv) or activate one; that
# folder, the storage and the home folder must be the same on all nodes. Without --gpus-per-node it trains on CPUs. A
# job that is requeued continues its run, since the recipe names it. Two minutes before its time limit, and after
# `scancel --batch --signal=TERM JOB`, the run saves a checkpoint of the next step and ends with status 143. Submit it
# again to continue there. Other Ray clusters on the nodes are not disturbed: this one has its own ports and folder.

#SBATCH --job-name=stm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120

set -euo pipefail

if [ -z "${VIRTUAL_ENV:-}" ] && [ -f .venv/bin/activate ]; then
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

# Every node presents the token, which is in the home folder and readable only by its owner.
export RAY_AUTH_MODE=token
(umask 077 && ray get-auth-token --generate > /dev/null)

# This script runs on the first node. Other Ray clusters may run there, so it uses free ports and a folder for this job.
# The folder's name is short, since the path of a socket may have at most 107 characters.
read -r here port client_port < <(python -c '
import socket, ray.util
first, second = sockets = socket.socket(), socket.socket()
for each in sockets:
    each.bind(("", 0))
print(ray.util.get_node_ip_address(), first.getsockname()[1], second.getsockname()[1])')
export RAY_ADDRESS="$here:$port"
folder="/tmp/stm-$SLURM_JOB_ID"
mkdir -m 700 "$folder"
start=(ray start --block --disable-usage-stats "--temp-dir=$folder" --dashboard-agent-listen-port=0
  "--num-cpus=$SLURM_CPUS_ON_NODE" "--num-gpus=${SLURM_GPUS_ON_NODE:-0}")

export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # only servers need it; here the run has ended, and it would wait 30 s
# On a signal, `ray start --block` ends what it has started; `ray stop` would end every Ray process of this user.
rays=()
others=$((SLURM_JOB_NUM_NODES - 1))
# shellcheck disable=SC2329  # the trap calls it
finish() {
  kill -TERM "${rays[@]}" 2> /dev/null || true
  wait "${rays[@]}" || true
  rm -rf "$folder"
  [ "$others" -eq 0 ] || srun --relative=1 --nodes="$others" --ntasks="$others" rm -rf "$folder"
}
trap finish EXIT
trap 'exit 143' TERM

"${start[@]}" --head "--node-ip-address=$here" "--port=$port" "--ray-client-server-port=$client_port" \
  --include-dashboard=false > "$folder/head.log" 2>&1 &
rays+=($!)

nodes() { # the number of nodes that are alive; 0 before the first one
  timeout 60 python -c '
import ray
ray.init(log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))' 2> /dev/null || echo 0
}
# Nodes of a large job start minutes apart.
wait_for() {
  until [ "$(nodes)" -ge "$1" ]; do
    if ! kill -0 "${rays[0]}" 2> /dev/null || [ "$SECONDS" -gt 600 ]; then
      echo "Ray has not started on $1 node(s) after $SECONDS s:" >&2
      cat "$folder"/*.log >&2
      exit 1
    fi
    sleep 1
  done
}
wait_for 1
if [ "$others" -gt 0 ]; then
  srun --relative=1 --nodes="$others" --ntasks="$others" "${start[@]}" "--address=$RAY_ADDRESS" \
    > "$folder/others.log" 2>&1 &
  rays+=($!)
  wait_for "$SLURM_JOB_NUM_NODES"
fi

# Slurm sends TERM only to this script ("B:" above), because Ray must outlive the run, which saves a checkpoint.
stm train --address "$RAY_ADDRESS" "$@" &
run=$!
trap 'kill -TERM "$run" 2> /dev/null || true' TERM
# A trapped signal ends `wait`, not the run.
while wait "$run" && status=0 || status=$?; kill -0 "$run" 2> /dev/null; do :; done
exit "$status"
