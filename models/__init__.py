"""Networks: generators, feature encoders, the latent autoencoder, and the files of their weights."""
