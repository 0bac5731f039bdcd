#!/usr/bin/env bash
# A TPU slice of Google Cloud, from nothing to a finished run. Needs gcloud, logged in, and a bucket
# for the run folder (all workers mount it at /mnt/runs with gcsfuse).
#
#   # also: PROJECT, VERSION (the runtime), SPOT=1
#   export TPU_NAME=drift ZONE=us-east5-b TYPE=v6e-64 BUCKET=my-bucket
#   # ask for the slice and wait until it is there
#   scripts/tpu_pod.sh create
#   # this working tree and its requirements, on all workers
#   scripts/tpu_pod.sh install
#   scripts/tpu_pod.sh run --recipe imagenet256_latent \
#     --dataset_name latents:/mnt/runs/latents --save_dir /mnt/runs/b2
#   # the same for a spot slice: create, install and run again after every preemption, until the run
#   # is done
#   scripts/tpu_pod.sh train --recipe ...
#   scripts/tpu_pod.sh status | stop | delete
#
# A preempted run is not lost: the workers get SIGTERM, save together, and the same command resumes
# it. Not run on a real slice yet.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${TPU_NAME:?name of the slice}" "${ZONE:?zone, such as us-east5-b}"
type=${TYPE:-v6e-64}
case $type in
  v6e-*) version=${VERSION:-v2-alpha-tpuv6e} ;;
  v5litepod-*) version=${VERSION:-v2-alpha-tpuv5-lite} ;;
  v5p-*) version=${VERSION:-v2-alpha-tpuv5} ;;
  *) version=${VERSION:-tpu-ubuntu2204-base} ;;
esac
place=(--zone "$ZONE")
[ -z "${PROJECT:-}" ] || place+=(--project "$PROJECT")
tpu() { gcloud compute tpus tpu-vm "$1" "$TPU_NAME" "${place[@]}" "${@:2}"; }
everywhere() { tpu ssh --worker=all --command "$1"; }
state() { tpu describe --format='value(state)' 2>/dev/null || echo ABSENT; }

create() {
  if [ "$(state)" = READY ]; then return; fi
  if [ "$(state)" != ABSENT ]; then tpu delete --quiet; fi # what a preemption left
  local options=(--accelerator-type "$type" --version "$version")
  if [ -n "${SPOT:-}" ]; then options+=(--spot); fi
  until tpu create "${options[@]}"; do
    echo "no $type in $ZONE yet; trying again in a minute" >&2
    sleep 60
  done
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git ls-files -z | tar --null -czf "$archive" -T -
  tpu scp --worker=all "$archive" "$TPU_NAME:/tmp/jax-drift.tar.gz"
  rm -f "$archive"
  everywhere "set -e
    mkdir -p ~/jax-drift && tar -xzf /tmp/jax-drift.tar.gz -C ~/jax-drift && cd ~/jax-drift
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv
    export PATH=\$HOME/.local/bin:\$PATH
    [ -x .venv/bin/python ] || uv venv --quiet --python 3.11 .venv
    uv pip install --quiet --python .venv/bin/python -r requirements-tpu.txt -c requirements.lock"
  if [ -n "${BUCKET:-}" ]; then
    everywhere "set -e
      if ! command -v gcsfuse >/dev/null; then
        packages=https://packages.cloud.google.com/apt
        key=/usr/share/keyrings/cloud.google.asc
        list=/etc/apt/sources.list.d/gcsfuse.list
        curl -fsS \$packages/doc/apt-key.gpg | sudo tee \$key >/dev/null
        echo \"deb [signed-by=\$key] \$packages gcsfuse-\$(lsb_release -cs) main\" |
          sudo tee \$list >/dev/null
        sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse
      fi
      sudo mkdir -p /mnt/runs && sudo chown \$USER /mnt/runs
      mountpoint -q /mnt/runs || gcsfuse --implicit-dirs '$BUCKET' /mnt/runs"
  fi
}

run() {
  local words
  words=$(printf '%q ' "$@")
  everywhere "cd ~/jax-drift && exec .venv/bin/python train_drift.py $words"
}

train() {
  while true; do
    # Each in a shell of its own, which stops at the first error. The workers' exit code is 0 when
    # the run is complete.
    if scripts/tpu_pod.sh create && scripts/tpu_pod.sh install && scripts/tpu_pod.sh run "$@"; then
      return
    fi
    sleep 60 # a slice that was taken away says so a while after its workers are gone
    if [ "$(state)" = READY ]; then
      echo "error: the run ended with an error, and not by a preemption; see above" >&2
      return 1
    fi
    echo "preempted; asking for another slice" >&2
  done
}

case ${1:-} in
  create | install | run | train) "$@" ;;
  status) state ;;
  stop) everywhere "pkill -TERM -f '[t]rain_drift.py' || true" ;; # they save together and end
  delete) tpu delete --quiet ;;
  *)
    sed -n '2,/^set /{/^#/p}' "$0" >&2
    exit 2
    ;;
esac
