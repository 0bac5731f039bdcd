#!/usr/bin/env bash
# The ablation of the paper at its real sizes on one GPU of 80 GB or more, with a random MAE-256: step time, images/s, MFU and peak memory for accumulation and both attention kernels.
# Needs no data, no weights and no network; stops after 25 minutes. Each line of the results is one JSON object: benchmarks/gpu.sh results.jsonl
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${1:-gpu.jsonl}
python=${PYTHON:-python3}
export XLA_PYTHON_CLIENT_MEM_FRACTION=.95 JAX_ENABLE_COMPILATION_CACHE=0 # so that compile_s is that of the compiler
deadline=$(($(date +%s) + 24 * 60))
ablation=(--recipe none --size 32 --channels 4 --classes 1000 --samples_per_class 128 --sample_interval 0 --eval_interval 0
  --random_encoder 1 --encoder.name mae --encoder.path hf://mae_latent_ablation_256 --rounds 3 --steps 3
  --model.attn_fp32 0) # the cudnn kernel is of bfloat16 alone; so that both kernels compute the same, xla does it as well

try() { # a run that does not fit, or fails, leaves a line too
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
    "$python" - "$*" "$log" <<'PY' | tee -a "$out"
import json, sys
lines = open(sys.argv[2], errors="replace").read().strip().splitlines()
print(json.dumps({"failed": sys.argv[1], "why": next((line[:300] for line in lines if "RESOURCE_EXHAUSTED" in line or line.startswith("error:")), (lines or ["no output"])[-1][:300])}))
PY
  fi
  rm -f "$log"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
for accumulate in 4 2 1; do # the smallest memory first
  for attention in xla cudnn; do
    try benchmarks/step.py "${ablation[@]}" --optim.accumulate "$accumulate" --model.attention "$attention"
  done
done
try benchmarks/step.py "${ablation[@]}" --optim.accumulate 8 --model.attention cudnn
try benchmarks/step.py "${ablation[@]}" --optim.accumulate 4 --model.attention cudnn --model.remat 1
try benchmarks/sampling.py --recipe none --model.preset base --batch 64 --model.attn_fp32 0 --model.attention cudnn
