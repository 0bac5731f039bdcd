"""What a training run is made of. As the programs do, it knows every package; nothing but programs imports it."""
