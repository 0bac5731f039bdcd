#!/usr/bin/env bash
# Sets everything up, trains a one-step generator of handwritten digits on two CPU cores, and scores
# it against held-out digits. Arguments go to the trainer:
#
#   ./scripts/demo.sh --seed 1 --save_dir runs/digits-1
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
run=runs/digits
arguments=("$@")
while [ $# -gt 0 ]; do
  case "$1" in --save_dir=*) run=${1#*=} ;; --save_dir) run=${2:-$run} ;; esac
  shift
done
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
.venv/bin/python train_drift.py --dataset_name digits --save_dir "$run" \
  ${arguments[@]+"${arguments[@]}"}
.venv/bin/python sample.py --load_dir "$run" --compare --out "$run/samples/generated_and_real.png"
.venv/bin/python eval_fid.py --load_dir "$run"
floor="Frechet distance in raw pixels, train against test is 0.29"
cat <<TXT

Generated and real digits  $run/samples/generated_and_real.png
Report                     $run/report.html
Curves                     $run/curves.png
Scores                     $run/fid.csv    (fd_pixels: $floor)
Sample more                .venv/bin/python sample.py --load_dir $run
TXT
