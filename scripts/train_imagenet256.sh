#!/usr/bin/env bash
# The recipe configs/imagenet256.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_imagenet256.sh --seed 1
exec "$(dirname "$0")/train.sh" --dataset_name imagenet256 "$@"
