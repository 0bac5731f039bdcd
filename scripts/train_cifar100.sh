#!/usr/bin/env bash
# The recipe configs/cifar100.py, which says what it takes (not measured yet).
# Arguments go to the trainer: ./scripts/train_cifar100.sh --seed 1
exec "$(dirname "$0")/train.sh" --dataset_name cifar100 "$@"
