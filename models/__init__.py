"""Generators, feature encoders, the VAE of the latents, and weights on disk."""
