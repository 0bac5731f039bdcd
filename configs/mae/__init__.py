"""Recipes of pretrain_mae.py."""
