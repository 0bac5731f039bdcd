"""Every setting of the trainer: the one source of defaults and of help texts.

A new flag is one new row here. A row has:

    name       of the flag; those of a group begin with it, as "model.depth"
    default    its type is the type of the flag; a tuple is given as a list with commas
    help       the meaning
    accepts    an interval such as "[0, 1)", one that also takes a word ("[1, inf) or all"),
               a tuple of choices, PATH for a flag that names files or folders of this machine, or
               BUCKET where they may also be in a bucket, gs://bucket/x or s3://bucket/x

Where the paper gives a value, the default is that of its ablation on ImageNet-256 (arXiv
2602.04770, A.8 and A.9). Which values fit together is checked in `utils/config/checks.py`.
"""

from typing import NamedTuple

PATH = "a path"  # what flags accept whose ~ is the home folder
BUCKET = "a path, or one in a bucket"


class Key(NamedTuple):
    """One setting."""

    name: str
    default: bool | int | float | str | tuple[float, ...]
    help: str
    accepts: str | tuple[str, ...] = ""


# Of train_drift.py. Other programs take parts of this table.
TABLE = (
    # ---- the run ----
    Key(
        "recipe",
        "",
        "file in configs/ to start from; empty = the one of the data set, if any; none = none",
    ),
    Key(
        "dataset_name",
        "digits",
        "name of the images, such as digits, folder:PATH or hf:NAME (docs/data.md)",
        BUCKET,
    ),
    Key("save_dir", "", "run folder; empty = runs/<dataset_name>; a run in it is resumed", BUCKET),
    Key(
        "load_dir",
        "",
        "run folder: go on from its newest checkpoint, all state included, in another save_dir; "
        "weights alone are for --init_from",
        BUCKET,
    ),
    Key(
        "init_from",
        "",
        "start from these generator weights: a run, of a flow too, a published artifact, or "
        "hf://name",
        BUCKET,
    ),
    Key(
        "batch_size",
        4096,
        "samples generated per step = classes per step x drift.n_neg",
        "[1, 1048576]",
    ),
    Key("max_steps", 30_000, "length of the training", "[1, 1000000000]"),
    Key("seed", 0, "every random choice follows from it", "[0, 4294967295]"),
    Key("log_interval", 100, "steps between lines of metrics.jsonl", "[1, inf)"),
    Key("sample_interval", 1000, "steps between sample grids; 0 = never", "[0, inf)"),
    Key("eval_interval", 5000, "steps between evaluations while training; 0 = never", "[0, inf)"),
    Key("save_interval", 1000, "steps between checkpoints", "[1, inf)"),
    Key("keep_checkpoints", 2, "newest checkpoints kept", "[1, inf)"),
    Key(
        "keep_interval",
        0,
        "also keep every checkpoint at a multiple of so many steps; 0 = none",
        "[0, inf)",
    ),
    Key(
        "eval_samples",
        0,
        "samples per evaluation while training; 0 = 5,000, in pixels as many as are held out",
        "[0, inf)",
    ),
    Key(
        "features",
        "",
        "network of the scores: inception, dinov2[:SOURCE], efficientnet[:SOURCE], vit:SOURCE, "
        "pixels; empty = by the data set; eval_fid.py scores images in several, joined by +",
    ),
    Key(
        "inception_weights",
        "",
        "file of the Inception weights; empty = the standard public one, fetched once",
        PATH,
    ),
    Key(
        "fid_stats",
        "",
        "the reals to measure against: statistics or images (.npz), "
        "or a folder; {network} in it is the network's name; empty = the data set",
        BUCKET,
    ),
    Key(
        "vae",
        "",
        "folder or hub id of the VAE of latents; "
        "empty = the one they were made with, or stabilityai/sd-vae-ft-ema",
        PATH,
    ),
    Key(
        "objective",
        "drift",
        "what is learned: one pass by drifting, or a rectified flow, the baseline",
        ("drift", "flow"),
    ),
    Key("denoise_timesteps", 32, "objective flow: Euler steps of a sample", "[1, 100000]"),
    Key("dry_run", False, "print the configuration, the sizes and the steps, then stop"),
    Key(
        "stop_on_collapse",
        False,
        "stop, not only warn, when the generated samples of a class are alike",
    ),
    Key(
        "on_nonfinite",
        "stop",
        "what a run does whose loss is not finite: stop, or go back to the last checkpoint and on "
        "with other samples",
        ("stop", "rollback"),
    ),
    Key("max_rollbacks", 3, "how often a run goes back at most", "[1, inf)"),
    Key(
        "watchdog",
        0.0,
        "seconds without a step or a log line after which the program ends with exit code 1 and "
        "the stacks of its threads; 0 = never; set it above the time of log_interval steps",
        "[0, 1000000]",
    ),
    Key(
        "collapse_ratio",
        0.1,
        "generated / real pairwise distance that counts as collapse",
        "[0, 1)",
    ),
    # ---- the generator ----
    Key("model.preset", "", "sizes in configs/presets.py; a flag that is given goes over them"),
    Key(
        "model.name",
        "dit",
        "generator: a transformer for images, an MLP for vectors",
        ("dit", "mlp"),
    ),
    Key("model.patch_size", 2, "side of a patch, in pixels or latents", "[1, 4096]"),
    Key("model.hidden_size", 768, "width", "[1, 65536]"),
    Key("model.depth", 12, "number of blocks", "[1, 1000]"),
    Key("model.num_heads", 12, "attention heads; divides hidden_size", "[1, 65536]"),
    Key(
        "model.mlp_ratio",
        4.0,
        "width of the feed-forward / hidden_size (x 2/3 if SwiGLU)",
        "(0, inf)",
    ),
    Key("model.cond_dim", 0, "width of the conditioning vector; 0 = hidden_size", "[0, 65536]"),
    Key("model.n_cls_tokens", 16, "in-context conditioning tokens", "[0, 4096]"),
    Key(
        "model.noise_classes",
        64,
        "entries of each style codebook; 0 = no style embeddings",
        "[0, 65536]",
    ),
    Key("model.noise_coords", 32, "style codebooks", "[1, 65536]"),
    Key("model.use_qknorm", True, "normalise queries and keys"),
    Key("model.use_swiglu", True, "SwiGLU rather than GELU"),
    Key("model.use_rope", True, "rotary positions"),
    Key("model.use_rmsnorm", True, "RMSNorm rather than LayerNorm"),
    Key("model.use_bf16", True, "compute networks in bfloat16 (parameters and drift stay float32)"),
    Key("model.attn_fp32", True, "compute attention weights in float32"),
    Key(
        "model.remat",
        False,
        "recompute whole blocks in the backward pass, "
        "not only their element-wise work: less memory, more time",
    ),
    Key(
        "model.zero_init_output",
        False,
        "start the output layer at zero, which is a collapsed generator",
    ),
    Key(
        "model.clip_output",
        False,
        "pull samples back to [-1, 1], where pixels are; of what is beyond, a tenth is kept, and "
        "the gradient passes unchanged",
    ),
    Key(
        "model.clip_margin",
        0.0,
        "with clip_output: what is beyond by less than this is cut wholly, so that a background "
        "that trembles becomes flat",
        "[0, 10]",
    ),
    Key(
        "model.refine_channels",
        0,
        "channels of three convolutions after the last layer of a dit; 0 = none",
        "[0, 4096]",
    ),
    Key(
        "model.antialias",
        0.0,
        "with clip_output: a pixel of a dit is the mean of four points that are clipped, so far "
        "from it in pixels, which makes edges smooth; 0.25 = a quarter",
        "[0, 1]",
    ),
    Key(
        "model.output_init",
        "random",
        "start of the output layer; data = first samples have the data's mean and covariance; "
        "with --init_from its weights",
        ("random", "data"),
    ),
    Key("model.class_dropout_prob", 0.0, "share of labels replaced by a null class", "[0, 1)"),
    Key(
        "model.attention",
        "xla",
        "attention kernel; cudnn needs a GPU, use_bf16, and attn_fp32 off; pallas is for TPUs; "
        "auto = one of these where the device has it and it takes the model, or else xla",
        ("auto", "xla", "cudnn", "pallas"),
    ),
    Key(
        "model.unroll",
        1,
        "blocks in one turn of the loop over depth; more run faster on a CPU and compile slower",
        "[1, inf)",
    ),
    Key(
        "model.from_flow",
        False,
        "the network is that of a flow, of which a sample takes one step; --init_from decides it",
    ),
    Key("model.use_stable_vae", False, "learn latents: images are encoded by --vae as they come"),
    # ---- the drifting loss and its bank of reals ----
    Key("drift.field", "kernel", "drifting field: a name in drifting/fields/, docs/fields.md"),
    Key(
        "drift.temperatures",
        (0.02, 0.05, 0.2),
        "tau, for features of scale 1; of the learned field, levels of noise; learned = one for "
        "each feature set, at drift.neighbours",
        "(0, inf) or learned",
    ),
    Key(
        "drift.neighbours",
        16.0,
        "over how many positives a kernel of learned drift.temperatures spreads, on average",
        "[1, inf)",
    ),
    Key(
        "drift.temperature_schedule",
        "",
        "START:END, factors of all drift.temperatures in the first and in the last step, one of "
        "them 1, such as 10:1; geometric in between; empty = 1:1",
    ),
    Key(
        "drift.kernel",
        "laplace",
        "exp(-d / tau), or exp(-d^2 / 2 tau); the cost d or d^2 / 2 of sinkhorn; mmd: energy = -d",
        ("laplace", "gaussian", "energy"),
    ),
    Key(
        "drift.normalize",
        "both",
        "kernel, uncoupled: softmax over y and x, over y, or none",
        ("both", "y", "none"),
    ),
    Key(
        "drift.absent",
        "masked",
        "kernel: whether unconditional reals of weight 0 (alpha = 1) keep their share of the "
        "softmax over y; counted = as in the authors' release",
        ("masked", "counted"),
    ),
    Key(
        "drift.bias_correction",
        False,
        "kernel, uncoupled: correct both centroids for the number of samples, "
        "which leaves a bias of O(1/n^2) in the place of O(1/n)",
    ),
    Key("drift.attraction", 1.0, "factor of V+; other than 1 for ablations", "[0, inf)"),
    Key("drift.repulsion", 1.0, "factor of V-", "[0, inf)"),
    Key("drift.iterations", 20.0, "sinkhorn: iterations, a multiple of 0.5", "[0, inf)"),
    Key(
        "drift.negatives",
        "auto",
        "the samples themselves, or a second batch; auto = second for sinkhorn",
        ("auto", "own", "second"),
    ),
    Key(
        "drift.guidance",
        "auto",
        "how unconditional reals enter: as negatives, or V += (alpha - 1) V_unc; auto = field for "
        "sinkhorn",
        ("auto", "negatives", "field"),
    ),
    Key(
        "drift.moments",
        "class",
        "frechet: mean and covariance of each class, or of all samples together",
        ("class", "all"),
    ),
    Key(
        "drift.moments_file",
        "",
        "frechet: statistics (.npz, as of --fid_stats) in the place of the moments of the data, "
        "for --drift.moments all and one feature set",
        BUCKET,
    ),
    Key(
        "drift.moment_decay",
        0.999,
        "frechet: decay of the running moments of the generated samples",
        "[0, 1)",
    ),
    Key(
        "drift.landmarks",
        0,
        "mmd: reals of each class at which the attraction of all of them is frozen, exact where "
        "a class has no more; 0 = the reals of a step attract",
        "[0, 65536]",
    ),
    Key("drift.field_width", 64, "learned: hidden units", "[1, 65536]"),
    Key("drift.field_projection", True, "learned: g is an MLP rather than the identity"),
    Key("drift.field_lr", 1e-3, "learned: learning rate of Adam", "(0, inf)"),
    Key("drift.field_ema", 0.99, "learned: average whose parameters make the drift", "(0, 1)"),
    Key(
        "drift.exact_scales",
        False,
        "with optim.accumulate: pool the scales of a step over all groups, "
        "for two more forward passes; the result is then that without groups",
    ),
    Key("drift.class_sampling", "uniform", "draw of a step's classes", ("uniform", "frequency")),
    Key("drift.n_neg", 64, "samples generated per class; each other's negatives", "[2, 1048576]"),
    Key("drift.n_pos", 64, "reals per class; all = all that the bank holds", "[2, 1048576] or all"),
    Key(
        "drift.n_unc",
        16,
        "reals of any class that each class of a step has for guidance; 0 = none",
        "[0, 1048576]",
    ),
    Key(
        "drift.joint",
        0.0,
        "W: with data.condition_column, all samples of a step are compared with all its reals, by "
        "their features and W times their conditions (n_pos is 1); 0 = groups of near conditions",
        "[0, inf)",
    ),
    Key("drift.alpha_min", 1.0, "least guidance scale; 1 = no guidance", "[1, inf)"),
    Key("drift.alpha_max", 4.0, "greatest guidance scale", "[1, inf)"),
    Key("drift.alpha_power", 3.0, "k in p(alpha) ~ alpha^-k", "[0, inf)"),
    Key("drift.no_cfg_frac", 0.0, "share of labels trained with alpha = 1", "[0, 1]"),
    Key(
        "drift.bank_per_class",
        128,
        "reals kept per class; all = the whole data set",
        "[1, inf) or all",
    ),
    Key(
        "drift.bank_global",
        1000,
        "reals kept of any class, for guidance; 0 = class queues",
        "[0, inf)",
    ),
    Key("drift.bank_push", 64, "new reals per step", "[1, 1048576]"),
    Key(
        "drift.bank_placement",
        "auto",
        "device = whole on each; divided = a part of each sample on each; host = in host memory; "
        "auto = by size",
        ("auto", "device", "divided", "host"),
    ),
    Key(
        "drift.bank_budget_gb",
        4.0,
        "largest part of the bank that auto puts on a device, in GB",
        "(0, inf)",
    ),
    Key(
        "drift.monitor",
        "",
        "feature set of the energy distance and the diversity; "
        "empty = the last with one vector per image, rather no _std",
    ),
    # ---- rectified flow, the baseline ----
    Key(
        "flow.t_sampler",
        "log-normal",
        "objective flow: times; log-normal = sigmoid of a normal",
        ("log-normal", "uniform"),
    ),
    # ---- the feature encoder ----
    Key("encoder.name", "none", "feature encoder, or several joined by +; none = raw samples"),
    Key(
        "encoder.path",
        "",
        "its weights: a folder or hf://name; for several, "
        "in the order of the names, separated by commas",
        PATH,
    ),
    Key(
        "encoder.weights",
        "1",
        "weight of the losses of each encoder, "
        "in the order of the names, such as 1,0.5; one number for all",
    ),
    Key(
        "encoder.balance",
        False,
        "several encoders: divide the loss of each by its running mean, so that each adds its "
        "weight to the loss, whatever the number of its feature sets",
    ),
    Key(
        "encoder.layers",
        "",
        "feature maps to use, such as layer3*,layer4*,!*_std; "
        "this and the next three: joined by + like the names, empty = its own",
    ),
    Key("encoder.statistics", "", "of each map: some of map,mean,std"),
    Key(
        "encoder.patch_sizes",
        "",
        "sides of the patches for mean and std, such as 2,4; none = whole maps only",
    ),
    Key("encoder.image_size", "", "side that images are resized to"),
    Key(
        "encoder.bf16",
        "auto",
        "compute encoders in bfloat16; auto = as each was made",
        ("auto", "on", "off"),
    ),
    Key(
        "encoder.cache",
        "auto",
        "keep the features of reals in the bank, so that a step encodes "
        "generated samples alone; auto = where it pays, by cache_budget_gb",
        ("auto", "on", "off"),
    ),
    Key(
        "encoder.cache_budget_gb",
        4.0,
        "largest bank of features that auto makes, in GB",
        "(0, inf)",
    ),
    # ---- the data set ----
    Key(
        "data.dir",
        "",
        "folder of the data set, or of all TFDS sets; empty = its usual place",
        PATH,
    ),
    Key("data.split", "train", "split to learn from"),
    Key("data.config", "", "which configuration of a set that has several; empty = its only one"),
    Key("data.image_size", 0, "centre crop and resize to this side; 0 = as stored", "[0, 16384]"),
    Key("data.channels", 0, "1 = grey, 3 = colour; 0 = as stored", "[0, inf)"),
    Key("data.image_column", "", "column of the images; empty = found"),
    Key(
        "data.label_column",
        "",
        "column of the labels; empty = found; none = without labels, one class",
    ),
    Key(
        "data.condition_column",
        "",
        "column, or array of an .npz, of a vector for each image to generate from, in the place of "
        "classes; empty = none",
    ),
    Key(
        "data.max_corrupt",
        0.01,
        "share of images that may be unreadable and are skipped; more stop the run",
        "[0, 1]",
    ),
    Key("data.flip", False, "mirror images at random"),
    Key(
        "data.streaming",
        False,
        "read parquet files of the Hugging Face hub as they are needed, without a copy",
    ),
    Key(
        "data.stream_window",
        8192,
        "samples that streaming shuffles at a time; up to two such windows are in memory",
        "[1, inf)",
    ),
    Key("data.workers", 0, "processes that read; 0 = threads of this one", "[0, 1024]"),
    # ---- the optimiser ----
    Key(
        "optim.name",
        "adamw",
        "AdamW, or Muon for the matrices of hidden layers and AdamW for the rest",
        ("adamw", "muon"),
    ),
    Key("optim.learning_rate", 2e-4, "after the warm-up", "(0, inf)"),
    Key("optim.warmup_steps", 5000, "linear warm-up from 0", "[0, inf)"),
    Key("optim.schedule", "constant", "after the warm-up", ("constant", "cosine")),
    Key("optim.end_learning_rate", 0.0, "at max_steps, with the cosine schedule", "[0, inf)"),
    Key("optim.b1", 0.9, "AdamW: decay of the first moment", "[0, 1)"),
    Key("optim.b2", 0.95, "AdamW: decay of the second moment", "[0, 1)"),
    Key("optim.weight_decay", 0.01, "decoupled weight decay", "[0, inf)"),
    Key("optim.clip", 2.0, "largest global norm of the gradient", "(0, inf)"),
    Key(
        "optim.accumulate",
        1,
        "groups of classes that a step goes through one after the other, before one update: less "
        "memory; where it does not divide the classes, parts of the samples of each, exactly",
        "[1, inf)",
    ),
    Key(
        "optim.ema",
        (0.999, 0.9995, 0.9998, 0.9999),
        "decays of the parameter averages that are kept; samples are made with the first",
        "(0, 1)",
    ),
    Key(
        "optim.ema_snapshots",
        0,
        "keep two averages more, and so many snapshots of them, of which --ema 0.01 to 0.25 makes "
        "an average of that width afterwards (docs/training.md); 0 = none",
        "[0, 1000]",
    ),
    # ---- the devices ----
    Key("mesh.fsdp", 1, "devices that share one copy of the parameters", "[1, inf)"),
    Key("mesh.devices", 0, "devices to use; 0 = all", "[0, inf)"),
    # ---- who shows the metrics, beside metrics.jsonl ----
    Key("log", "", "trackers: tensorboard, trackio, or both with a comma"),
    Key("wandb.mode", "disabled", "Weights & Biases", ("online", "offline", "disabled")),
    Key("wandb.project", "drift", "project in Weights & Biases, and in Trackio"),
    Key("wandb.name", "", "name of the run in Weights & Biases; empty = that of the run folder"),
    Key("wandb.entity", "", "team in Weights & Biases; empty = yours"),
)

# Of one process of a job, not of the run: flags of the programs that are no part of config.json.
DISTRIBUTED = (
    Key(
        "distributed.coordinator",
        "",
        "HOST:PORT of process 0, in a job of several processes; "
        "empty = from JAX's variables or the cluster",
    ),
    Key(
        "distributed.processes",
        0,
        "processes of the job; 0 = from JAX's variables or the cluster, 1 = this one alone",
        "[0, inf)",
    ),
    Key(
        "distributed.process",
        -1,
        "which of them this is; -1 = from JAX's variables or the cluster",
        "[-1, inf)",
    ),
    Key("distributed.timeout", 300, "seconds to wait for the others at the start", "[1, inf)"),
)

# Of a call of a trainer, not of its run: no part of config.json either.
OF_TRAINERS = (
    Key(
        "profile",
        0,
        "steps of which a trace is written to the folder profile/ of the run, for "
        "https://ui.perfetto.dev; 0 = none",
        "[0, 1000]",
    ),
    *DISTRIBUTED,
)
