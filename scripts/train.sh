#!/usr/bin/env bash
# Starts train_drift.py with its arguments, by .venv's Python where ./scripts/setup.sh has made it,
# or by another one that has the packages. PYTHON names one:
#
#   PYTHON=python3.12 ./scripts/train.sh --dataset_name cifar10 --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."

has_packages() {
  "$1" -c '
import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, ("jax", "flax", "optax", "ml_collections"))))
' 2>/dev/null
}

for python in ${PYTHON:+"$PYTHON"} .venv/bin/python python python3; do
  if has_packages "$python"; then
    exec "$python" train_drift.py "$@"
  fi
  if [ -n "${PYTHON:-}" ]; then
    echo "error: PYTHON=$PYTHON is no Python with the packages of requirements.lock;" \
      "install them, or leave it out and run ./scripts/setup.sh first" >&2
    exit 2
  fi
done
echo "error: no Python with the packages of requirements.lock; run ./scripts/setup.sh first" >&2
exit 2
