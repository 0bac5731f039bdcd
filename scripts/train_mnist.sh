#!/usr/bin/env bash
# The recipe configs/mnist.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_mnist.sh --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" train_drift.py --dataset_name mnist "$@"
