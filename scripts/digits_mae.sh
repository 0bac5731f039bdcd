#!/usr/bin/env bash
# Digits in the features of an encoder of their own: pre-trains it, trains a generator with it, and
# scores that against held-out digits. Arguments go to the generator's training:
#
#   ./scripts/digits_mae.sh --seed 1 --save_dir runs/digits_mae-1 --max_steps 500
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
encoder=runs/mae_digits run=runs/digits_mae
arguments=("$@")
while [ $# -gt 0 ]; do
  case "$1" in --save_dir=*) run=${1#*=} ;; --save_dir) run=${2:-$run} ;; esac
  shift
done
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
.venv/bin/python pretrain_mae.py --dataset_name digits --save_dir "$encoder"
.venv/bin/python train_drift.py --dataset_name digits --recipe digits_mae \
  --encoder.path ",$encoder" --save_dir "$run" ${arguments[@]+"${arguments[@]}"}
.venv/bin/python eval_fid.py --load_dir "$run"
