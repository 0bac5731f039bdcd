#!/usr/bin/env bash
# The recipe configs/tiny_imagenet.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_tiny_imagenet.sh --seed 1
exec "$(dirname "$0")/train.sh" --dataset_name tiny_imagenet "$@"
