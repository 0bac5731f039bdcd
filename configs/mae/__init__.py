"""What pretrain_mae.py trains: its table of defaults (`default`), and a recipe per other file."""
