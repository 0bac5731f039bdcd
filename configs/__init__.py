"""What to train: the table of defaults (`default`), sizes (`presets`), a recipe per other file."""
