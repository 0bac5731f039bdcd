"""Sizes of the generator, as `--model.preset`, and what an objective changes, as `--objective`.

Both go over the recipe, never over a flag that was given.
"""


def _size(hidden_size: int, depth: int, num_heads: int) -> dict[str, int]:
    return {"model.hidden_size": hidden_size, "model.depth": depth, "model.num_heads": num_heads}


# base, large: the generators of the paper (arXiv 2602.04770, A.2). small, xlarge: DiT-S and DiT-XL
# (arXiv 2212.09748, Table 1). debug, tiny: for tests and laptops. big, semilarge: names and sizes
# that users of jax-flow know.
PRESETS = {
    "debug": _size(64, 2, 2),
    "tiny": _size(192, 6, 3),
    "small": _size(384, 12, 6),
    "base": _size(768, 12, 12),
    "large": _size(1024, 24, 16),
    "xlarge": _size(1152, 28, 16),
    "big": _size(768, 12, 12),
    "semilarge": _size(1024, 22, 16),
}

# What an objective takes otherwise than drifting does.
OBJECTIVES = {
    "drift": {},
    "flow": {
        "model.noise_classes": 0,  # x_t is its only noise
        "model.noise_coords": 1,
        "model.class_dropout_prob": 0.1,  # guidance needs a null class
        "model.output_init": "random",  # velocities are not like the data,
        "model.clip_output": False,  # nor pixels
        "model.clip_margin": 0.0,
        "model.antialias": 0.0,
    },
}

# Per objective: the flags, and beginnings of flags, that it has no use for, and what of these it
# uses all the same.
WITHOUT_USE = {
    "drift": (("flow.", "denoise_timesteps"), ()),
    "flow": (
        ("drift.", "encoder.", "stop_on_collapse", "collapse_ratio"),
        ("drift.bank_per_class", "drift.bank_placement", "drift.bank_budget_gb"),
    ),
}
