#!/usr/bin/env bash
# Sets everything up, trains a one-step generator of handwritten digits on two CPU cores, and scores
# it against held-out digits. `mnist`, the default, has 28x28 pixels; `digits` has 8x8 and is done
# in half the time. Arguments go to the trainer:
#
#   ./scripts/demo.sh digits --seed 1 --save_dir runs/digits-1
set -euo pipefail
cd "$(dirname "$0")/.."
name=mnist_5k floor="12.15"
case "${1:-}" in
  mnist) shift ;;
  digits) name=digits floor="0.38" && shift ;;
  -* | "") ;;
  *) echo "error: $1: expected mnist or digits, or flags of train_drift.py" >&2 && exit 2 ;;
esac
./scripts/setup.sh
run=runs/$name
arguments=("$@")
while [ $# -gt 0 ]; do
  case "$1" in --save_dir=*) run=${1#*=} ;; --save_dir) run=${2:-$run} ;; esac
  shift
done
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
.venv/bin/python train_drift.py --dataset_name "$name" --save_dir "$run" \
  ${arguments[@]+"${arguments[@]}"}
.venv/bin/python sample.py --load_dir "$run" --compare --out "$run/samples/generated_and_real.png"
.venv/bin/python eval_fid.py --load_dir "$run"
page="a page that generates in the browser: pip install -r requirements-web.txt, run this again"
if .venv/bin/python -c "import jax2onnx" 2>/dev/null; then
  page="none, see above"
  if .venv/bin/python scripts/export.py --load_dir "$run" --format web --out "$run/web"; then
    page=".venv/bin/python -m http.server --bind 127.0.0.1 --directory $run/web"
  fi
fi
floor="Frechet distance in raw pixels, of as many training images it is $floor"
cat <<TXT

Generated and real digits  $run/samples/generated_and_real.png
Report                     $run/report.html
Curves                     $run/curves.png
In the browser             $page
Scores                     $run/fid.csv    (fd_pixels: $floor)
Sample more                .venv/bin/python sample.py --load_dir $run
TXT
