"""Networks: generators, feature encoders, the latent autoencoder, and the files that their weights live in."""
