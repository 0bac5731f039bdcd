#!/usr/bin/env bash
# The recipe configs/imagenet256.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_imagenet256.sh --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" train_drift.py --dataset_name imagenet256 "$@"
