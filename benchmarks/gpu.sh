#!/usr/bin/env bash
# The paper's ablation at its real sizes on one GPU of 80 GB or more, with a random MAE 256 wide:
# step time, images/s, MFU and peak memory, for accumulation and both attention kernels.
#
#   benchmarks/gpu.sh results.jsonl
#
# It takes the packages of requirements-cuda.txt, and no data, weights or network. It stops after 25
# minutes. Each line of the results is a JSON object; a run that does not fit, or fails, leaves a
# line too.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${1:-gpu.jsonl}
python=${PYTHON:-python3}
deadline=$(($(date +%s) + 24 * 60))
export XLA_PYTHON_CLIENT_MEM_FRACTION=.95
export JAX_ENABLE_COMPILATION_CACHE=0 # so that compile_s is that of the compiler

# The cudnn kernel is of bfloat16 alone. So that both kernels compute the same, xla does it as well.
attention=(--model.attn_fp32 0)
ablation=(
  --recipe none --size 32 --channels 4 --classes 1000 --samples_per_class 128
  --sample_interval 0 --eval_interval 0
  --random_encoder 1 --encoder.name mae --encoder.path hf://mae_latent_256
  --rounds 3 --steps 3 "${attention[@]}"
)

# Prints why a run failed, as JSON: its words and the file of its log.
why() {
  "$python" - "$1" "$2" <<'PY'
import json
import sys

words, log = sys.argv[1:]
lines = open(log, errors="replace").read().strip().splitlines() or ["no output"]
reasons = [line for line in lines if "RESOURCE_EXHAUSTED" in line or line.startswith("error:")]
reason = reasons[0] if reasons else lines[-1]
print(json.dumps({"failed": words, "why": reason[:300]}))
PY
}

try() {
  local left=$((deadline - $(date +%s)))
  if [ "$left" -lt 60 ]; then
    echo "{\"skipped\": \"$*\", \"why\": \"25 minutes are over\"}" | tee -a "$out"
    return
  fi
  local log line
  log=$(mktemp)
  if line=$(timeout "$left" "$python" "$@" 2>"$log" | tail -n 1) && [ -n "$line" ]; then
    echo "$line" | tee -a "$out"
  else
    why "$*" "$log" | tee -a "$out"
  fi
  rm -f "$log"
}

step() { try benchmarks/step.py "${ablation[@]}" "$@"; }

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
for accumulate in 4 2 1; do # the smallest memory first
  for kernel in xla cudnn; do
    step --optim.accumulate "$accumulate" --model.attention "$kernel"
  done
done
step --optim.accumulate 8 --model.attention cudnn
step --optim.accumulate 4 --model.attention cudnn --model.remat 1
try benchmarks/sampling.py --recipe none --model.preset base --batch 64 \
  "${attention[@]}" --model.attention cudnn
