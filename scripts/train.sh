#!/usr/bin/env bash
# Starts train_drift.py with its arguments, by .venv's Python where ./scripts/setup.sh has made it.
# PYTHON names another one:
#
#   PYTHON=python3.12 ./scripts/train.sh --dataset_name cifar10 --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then
  python=python
  if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
fi
exec "$python" train_drift.py "$@"
