"""What to train: the table of defaults (`default`), model sizes (`presets`), and a recipe per other file."""
