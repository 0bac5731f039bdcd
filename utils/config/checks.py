"""Which values fit together.

What one key accepts alone is in its row of `configs/default.py`. What depends on the data or on the
devices is checked later, where these are known.
"""

from ml_collections import ConfigDict

from utils import trackers
from utils.errors import UserError


def check(fits: bool, message: str) -> None:
    """Raises UserError with the message unless `fits`."""
    if not fits:
        raise UserError(message)


def validate(config: ConfigDict) -> None:
    """Checks the values of train_drift.py against one another.

    Raises:
        UserError: names the flags, their values, and what would fit.
    """
    _check_sets(config)
    _check_bank(config)
    if config.model.name == "dit":
        _check_transformer(config)
    _check_generator(config)
    if config.data.condition_column:
        _check_conditions(config)
    _check_shared(config)


def validate_mae(config: ConfigDict) -> None:
    """Checks the values of pretrain_mae.py against one another. Raises UserError as `validate`."""
    mae = config.mae
    column = config.data.condition_column
    check(
        not column,
        f"--data.condition_column={column}: an encoder takes no conditions; leave it out",
    )
    blocks = mae.layers.split(",")
    check(
        len(blocks) == 4 and all(n.strip().isdecimal() and int(n) for n in blocks),
        f"--mae.layers={mae.layers}: expected the residual blocks of four stages, such as 3,4,6,3",
    )
    check(
        mae.finetune_steps <= config.max_steps,
        f"--mae.finetune_steps={mae.finetune_steps} are the last of "
        f"--max_steps={config.max_steps}: lower the first or raise the second",
    )
    _check_shared(config)


def _check_sets(config: ConfigDict) -> None:
    """The sets of samples that meet in the field, and guidance."""
    drift = config.drift
    nearest_batch = max(1, config.batch_size // drift.n_neg) * drift.n_neg
    check(
        config.objective == "flow" or config.batch_size % drift.n_neg == 0,
        f"--batch_size={config.batch_size} must be classes per step x "
        f"--drift.n_neg={drift.n_neg}, e.g. {nearest_batch}",
    )
    check(
        config.objective == "flow"
        or drift.field != "frechet"
        or drift.moments != "class"
        or config.model.class_dropout_prob == 0,
        f"--model.class_dropout_prob={config.model.class_dropout_prob:g}: the moments of each "
        "class (--drift.moments class) are none of the null class; give --drift.moments all, or "
        "leave class dropout out",
    )
    check(
        config.objective == "flow" or drift.landmarks == 0 or config.model.class_dropout_prob == 0,
        f"--model.class_dropout_prob={config.model.class_dropout_prob:g}: the landmarks of each "
        f"class (--drift.landmarks {drift.landmarks}) are none of the null class; give "
        "--drift.landmarks 0, or leave class dropout out",
    )
    check(
        drift.alpha_min <= drift.alpha_max,
        f"--drift.alpha_min={drift.alpha_min:g} must not exceed "
        f"--drift.alpha_max={drift.alpha_max:g}",
    )
    check(
        drift.n_unc > 0 or drift.alpha_max == 1,
        f"--drift.n_unc=0 allows no guidance: raise it, or give --drift.alpha_max=1 "
        f"(not {drift.alpha_max:g})",
    )


def _check_bank(config: ConfigDict) -> None:
    """The bank must hold what a step draws from it."""
    drift = config.drift
    if drift.bank_per_class != "all":
        check(
            drift.joint or drift.n_pos == "all" or drift.n_pos <= drift.bank_per_class,
            f"--drift.n_pos={drift.n_pos} reals cannot be drawn from "
            f"--drift.bank_per_class={drift.bank_per_class}; lower the first or raise the second",
        )
    check(
        drift.bank_global == 0 or drift.n_unc <= drift.bank_global,
        f"--drift.n_unc={drift.n_unc} reals cannot be drawn from "
        f"--drift.bank_global={drift.bank_global}; lower the first or raise the second",
    )


def _check_transformer(config: ConfigDict) -> None:
    """Heads divide the width, and patches the image. The side of latents is known only later."""
    model = config.model
    check(
        model.hidden_size % model.num_heads == 0,
        f"--model.hidden_size={model.hidden_size} must be a multiple of "
        f"--model.num_heads={model.num_heads}",
    )
    # Rotary positions turn the numbers of a head in pairs.
    check(
        not model.use_rope or model.hidden_size // model.num_heads % 2 == 0,
        f"--model.hidden_size={model.hidden_size} / --model.num_heads={model.num_heads} "
        "must be even with --model.use_rope",
    )
    size = config.data.image_size
    check(
        model.use_stable_vae or size % model.patch_size == 0,
        f"--data.image_size={size} must be a multiple of --model.patch_size={model.patch_size}",
    )


def _check_generator(config: ConfigDict) -> None:
    model = config.model
    check(
        config.objective == "drift" or model.noise_classes == 0,
        f"--model.noise_classes={model.noise_classes}: style embeddings are noise of a one-pass "
        "generator; give 0 with --objective flow",
    )
    check(
        config.objective == "drift" or not model.from_flow,
        "--model.from_flow=1 makes a generator of one pass: leave it out with --objective flow",
    )
    check(
        model.output_init == "random" or not model.zero_init_output,
        "--model.output_init=data makes the output layer: leave --model.zero_init_output out",
    )
    check(
        model.output_init == "random" or config.objective == "drift",
        "--model.output_init=data begins with samples like the data, and the network of a flow "
        "gives velocities: leave it out with --objective flow",
    )
    check(
        model.output_init == "random"
        or not model.from_flow
        or bool(config.init_from or config.load_dir),
        "--model.from_flow=1 adds the noise to samples, which then are not like the data: give "
        "--model.output_init=random, or a flow with --init_from",
    )
    check(
        config.objective == "drift" or not model.clip_output,
        "--model.clip_output=1 clips samples, and the network of a flow gives velocities: leave "
        "it out with --objective flow",
    )
    check(
        model.attention != "cudnn" or (model.use_bf16 and not model.attn_fp32),
        "--model.attention=cudnn works in bfloat16 alone: give --model.use_bf16=1 "
        "--model.attn_fp32=0, or choose --model.attention=xla",
    )


def _check_conditions(config: ConfigDict) -> None:
    """The groups of a step are the reals with the nearest conditions, and of no class."""
    drift = config.drift
    flag = f"--data.condition_column={config.data.condition_column}"
    check(
        config.objective == "drift",
        f"{flag}: a flow is conditioned by classes alone; give --objective=drift",
    )
    check(
        drift.class_sampling == "uniform",
        f"{flag}: --drift.class_sampling={drift.class_sampling} draws classes; leave it out",
    )
    check(
        drift.field != "frechet",
        f"{flag}: --drift.field=frechet keeps moments of classes; give another field",
    )
    check(
        drift.landmarks == 0,
        f"{flag}: --drift.landmarks={drift.landmarks} are of classes; give 0",
    )


def _check_shared(config: ConfigDict) -> None:
    """What both trainers have: trackers, the optimiser and the mesh of devices."""
    trackers.names_of(str(config.log))
    optim, mesh = config.optim, config.mesh
    if optim.schedule == "cosine":
        check(
            optim.warmup_steps < config.max_steps,
            f"--optim.warmup_steps={optim.warmup_steps} must be less than "
            f"--max_steps={config.max_steps} with --optim.schedule=cosine",
        )
        check(
            optim.end_learning_rate <= optim.learning_rate,
            f"--optim.end_learning_rate={optim.end_learning_rate:g} must not exceed "
            f"--optim.learning_rate={optim.learning_rate:g}",
        )
    if mesh.devices:
        check(
            mesh.devices % mesh.fsdp == 0,
            f"--mesh.devices={mesh.devices} must be a multiple of --mesh.fsdp={mesh.fsdp}",
        )
