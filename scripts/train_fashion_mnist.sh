#!/usr/bin/env bash
# The recipe configs/fashion_mnist.py, which says what it takes (not timed yet).
# Arguments go to the trainer: ./scripts/train_fashion_mnist.sh --seed 1
exec "$(dirname "$0")/train.sh" --dataset_name fashion_mnist "$@"
