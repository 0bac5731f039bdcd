"""Other methods under the flags of the trainer, to compare with."""
