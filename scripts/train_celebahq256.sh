#!/usr/bin/env bash
# The recipe configs/celebahq256.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_celebahq256.sh --seed 1
exec "$(dirname "$0")/train.sh" --dataset_name celebahq256 "$@"
