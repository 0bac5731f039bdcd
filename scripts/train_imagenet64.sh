#!/usr/bin/env bash
# The recipe configs/imagenet64.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_imagenet64.sh --seed 1
exec "$(dirname "$0")/train.sh" --dataset_name imagenet64 "$@"
