"""Generators, feature encoders, the VAE of the latents, and weights on disk.

Generators     generator.py   how one is called, checked and started
               dit.py         the paper's (A.2), made of layers.py, conditioning.py, positions.py
               refinement.py  convolutions after its last layer, for pictures with sharp edges
               mlp.py         for vectors and small images
               build.py       the table of them; a generator from settings, or from a checkpoint
               sampling.py    samples in one pass
Encoders       encoders/      frozen encoders behind one contract; the table is encoders/table.py
               features.py    from their feature maps to sets of vectors (A.5)
               mae.py         the paper's masked autoencoder (A.3); mae_step.py trains it
               vit.py, efficientnet.py    networks of encoders/ and of scores
               standin.py     encoders without weights, for plans and benchmarks
               narrow.py      frozen parameters in half the memory
Latents        vae.py         the Stable Diffusion VAE
               latents.py     between images and latents: the one place that scales
Weights        weights.py     load_generator, load_encoder, save_generator
               runs.py        out of our own run folders; post_hoc.py: averages of any width
               artifacts.py   the published format; published_names.py: its names and ours
               export.py      a run in the published format
"""
