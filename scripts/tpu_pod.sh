#!/usr/bin/env bash
# A TPU slice of Google Cloud, from nothing to a finished run. Needs gcloud, logged in. The run is
# in a bucket, which the workers reach by themselves: nothing is mounted.
#
#   # also: PROJECT, VERSION (the runtime), RESERVATION (its name), HOURS (of flex-start, 24),
#   # TIER: on-demand, spot, reserved, or flex-start
#   export TPU_NAME=drift ZONE=us-east5-b TYPE=v6e-64 TIER=spot
#   # queue for the slice, and wait until it is there
#   scripts/tpu_pod.sh create
#   # this working tree and its requirements, on all workers
#   scripts/tpu_pod.sh install
#   scripts/tpu_pod.sh run --recipe imagenet256_latent \
#     --dataset_name latents:gs://my-bucket/latents --save_dir gs://my-bucket/b2
#   # all three, and again after a preemption or a lost worker, until the run is done
#   scripts/tpu_pod.sh train --recipe ...
#   # end `train` first, which would start again or ask for another slice
#   scripts/tpu_pod.sh status | stop | delete
#   # what any of these would do
#   DRY_RUN=1 scripts/tpu_pod.sh train --recipe ...
#
# A preempted run is not lost: the workers get SIGTERM, save together, and the same command resumes
# it. A mistake of the user's (exit code 2) ends it. Not run on a real slice yet.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${TPU_NAME:?name of the slice}" "${ZONE:?zone, such as us-east5-b}"
type=${TYPE:-v6e-64}
tier=${TIER:-on-demand}
pause=${PAUSE:-60}         # seconds between two looks at the queue
restarts=${RESTARTS:-10}   # on a slice that is still there
case $type in
  v6e-*) version=${VERSION:-v2-alpha-tpuv6e} ;;
  v5litepod-*) version=${VERSION:-v2-alpha-tpuv5-lite} ;;
  v5p-*) version=${VERSION:-v2-alpha-tpuv5} ;;
  *) version=${VERSION:-tpu-ubuntu2204-base} ;;
esac
place=(--zone "$ZONE")
[ -z "${PROJECT:-}" ] || place+=(--project "$PROJECT")

call() { # gcloud, or in a dry run its command line
  if [ -z "${DRY_RUN:-}" ]; then
    gcloud "$@"
  else
    printf '%q ' gcloud "$@"
    echo
  fi
}
tpu() { call compute tpus tpu-vm "$1" "$TPU_NAME" "${place[@]}" "${@:2}"; }
# Flex-start is known to the alpha commands only.
queue() { call alpha compute tpus queued-resources "$1" "$TPU_NAME" "${place[@]}" "${@:2}"; }
everywhere() { tpu ssh --worker=all --command "$1"; }

state() { # of the request: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED, FAILED, ...
  if [ -n "${DRY_RUN:-}" ]; then
    echo ABSENT
  else
    queue describe --format='value(state.state)' 2>/dev/null || echo ABSENT
  fi
}

create() {
  local options=(--node-id "$TPU_NAME" --accelerator-type "$type" --runtime-version "$version")
  case $tier in
    on-demand) ;;
    spot) options+=(--spot) ;;
    reserved) options+=(--reserved ${RESERVATION:+--reservation "$RESERVATION"}) ;;
    flex-start) options+=(--provisioning-model=flex-start --max-run-duration="${HOURS:-24}h") ;;
    *)
      echo "error: TIER=$tier: expected on-demand, spot, reserved or flex-start" >&2
      return 2
      ;;
  esac
  case $(state) in
    ABSENT) queue create "${options[@]}" ;;
    SUSPEND* | FAILED | DELETING) # what a preemption left
      queue delete --force --quiet
      queue create "${options[@]}"
      ;;
  esac
  if [ -n "${DRY_RUN:-}" ]; then return; fi
  while true; do
    case $(state) in
      ACTIVE) return ;;
      SUSPEND* | FAILED | ABSENT)
        echo "error: the request for $type in $ZONE is $(state); see scripts/tpu_pod.sh status" >&2
        return 1
        ;;
    esac
    echo "no $type in $ZONE yet: $(state)" >&2
    sleep "$pause"
  done
}

install() {
  local folder
  folder=$(mktemp -d)
  git ls-files -z | tar --null -czf "$folder/jax-drift.tar.gz" -T -
  call compute tpus tpu-vm scp "$folder/jax-drift.tar.gz" "$TPU_NAME:/tmp/jax-drift.tar.gz" \
    "${place[@]}" --worker=all
  rm -rf "$folder"
  everywhere "set -e
    mkdir -p ~/jax-drift && tar -xzf /tmp/jax-drift.tar.gz -C ~/jax-drift && cd ~/jax-drift
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv
    export PATH=\$HOME/.local/bin:\$PATH
    [ -x .venv/bin/python ] || uv venv --quiet --python 3.11 .venv
    uv pip install --quiet --python .venv/bin/python -c requirements.lock \\
      -r requirements-tpu.txt -r requirements-gs.txt"
}

run() {
  local words
  words=$(printf '%q ' "$@")
  # Each worker keeps its exit code, because gcloud has only one for all.
  everywhere "cd ~/jax-drift && rm -f exit_code
    .venv/bin/python train_drift.py $words
    code=\$? && echo \$code >exit_code && exit \$code"
}

exit_codes() { everywhere "cat ~/jax-drift/exit_code 2>/dev/null || true" 2>/dev/null || true; }

train() {
  local failed=0 code
  while true; do
    # Each in a shell of its own, which stops at the first error.
    code=0
    scripts/tpu_pod.sh create || code=$?
    if [ "$code" -eq 2 ]; then return 2; fi
    if [ "$code" -eq 0 ]; then
      if scripts/tpu_pod.sh install && scripts/tpu_pod.sh run "$@"; then return; fi
      sleep "$pause" # a slice that was taken away says so a while after its workers are gone
      if [ "$(state)" != ACTIVE ]; then
        echo "preempted; asking for another slice" >&2
        continue
      fi
      if exit_codes | grep -qx 2; then
        echo "error: the run ended by a mistake of its settings or data; see above" >&2
        return 2
      fi
    fi
    if [ "$failed" -ge "$restarts" ]; then
      echo "error: it failed $((failed + 1)) times without a preemption; see above" >&2
      return 1
    fi
    failed=$((failed + 1))
    echo "a worker was lost, or there is no slice; starting again ($failed of $restarts)" >&2
    sleep "$pause"
  done
}

case ${1:-} in
  create | install | run | train) "$@" ;;
  status) state ;;
  stop) everywhere "pkill -TERM -f '[t]rain_drift.py' || true" ;; # they save together and end
  delete) queue delete --force --quiet ;;
  *)
    sed -n '2,/^set /{/^#/p}' "$0" >&2
    exit 2
    ;;
esac
