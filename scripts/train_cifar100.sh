#!/usr/bin/env bash
# The recipe configs/cifar100.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_cifar100.sh --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" train_drift.py --dataset_name cifar100 "$@"
