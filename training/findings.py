"""What is wrong with a drifting field, in words: the findings of scripts/doctor.py.

A finding is a function of what `training.doctor` looked at in a run: the feature sets of one step
as arrays, the numbers of the step, the counters of the bank. It judges them by a threshold that
stands above it, and says which flag to change.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drifting.config import DriftConfig
from drifting.distances import log_kernel, log_weight, perplexity
from drifting.fields import make_field
from drifting.fields.sinkhorn import log_plan
from drifting.loss import guided_field
from drifting.problems import one_set_of_problems
from drifting.temperature import Temperatures

SOFTMAX = ("kernel", "uncoupled")  # fields whose attraction is a softmax over the positives


class Finding(NamedTuple):
    """One line of the doctor."""

    topic: str
    text: str  # what was found, with its number
    advice: str = ""  # the flag to change; empty where nothing is wrong

    @property
    def is_fault(self) -> bool:
        return bool(self.advice)

    def __str__(self) -> str:
        if not self.is_fault:
            return f"ok     {self.topic}: {self.text}"
        return f"fault  {self.topic}: {self.text}; {self.advice}"


class FeatureSet(NamedTuple):
    """One feature set of a step, as B problems: a class and a location each. See `Problems`."""

    name: str
    encoder: str
    gen: jax.Array  # [B, N, D], features of generated samples
    nudged: jax.Array  # [B, N, D], of the same samples with a little noise added
    pos: jax.Array  # [B, P, D], of the positives
    unc: jax.Array  # [B, M, D], of unconditional reals
    second: jax.Array | None  # [B, N, D], of a second generated batch, where it repels
    weight_pos: jax.Array  # [B, P], 0 where a positive is absent
    weight_unc: jax.Array  # [B, M]
    unit: float  # S sqrt(D), the mean distance between samples
    loss: float  # its part of the loss of the step
    own_tau: float | None = None  # its temperature, where each set learns one

    def at(self, tau: float) -> float:
        """Returns its temperature where the step has tau."""
        return tau if self.own_tau is None else self.own_tau

    @property
    def arrays(self) -> dict[str, jax.Array | None]:
        """The arguments of `drifting.problems.one_set_of_problems`."""
        samples = {"gen": self.gen, "pos": self.pos, "neg": self.unc, "second": self.second}
        return samples | {"weight_pos": self.weight_pos, "weight_neg": self.weight_unc}


class BankFacts(NamedTuple):
    """How the bank is used over a run."""

    filled: np.ndarray  # [C], reals in each class queue
    per_class: int  # the length of the queues
    pushed: int  # new reals per step; 0 where the bank holds all data
    in_data: int  # reals in the data set
    max_steps: int


# ---------------------------------------------------------------- the kernel


# A sample that follows one real alone, on average over 1.5 of them, has no mean to move towards:
# samples jump from real to real. A median of 1 is reached in the limit.
SATURATED = 1.5
# Attraction over 95% of the reals tells near from far by a third of the kernel's width (weights of
# e^0.32 at one standard deviation): all samples of a class are drawn to one point, its mean.
FLAT = 0.98
# Under so few positives there is no "few" and "all".
FEWEST = 8


def kernel_width(sets: Sequence[FeatureSet], drift: DriftConfig) -> list[Finding]:
    """Compares the perplexity of the attraction with the number of positives.

    One finding for each temperature. Too narrow a kernel is a fault where every temperature is:
    beside a wider one it adds detail, and the plan of Sinkhorn's algorithm covers all reals at any.
    A learned temperature is judged by the number of reals that it is held at: on the way there it
    may reach all reals or none, as the samples come nearer, and whether they move is `force`.
    """
    if drift.field not in (*SOFTMAX, "sinkhorn"):
        return []
    if drift.positives < FEWEST or is_unnormalised(drift):
        return []
    n = _median(sets, lambda one: float(jnp.mean(jnp.sum(one.weight_pos > 0, 1))))
    widths = {tau: _width(sets, drift, tau) for tau in drift.temperatures}
    judged = widths
    if isinstance(drift.memory, Temperatures):
        held = drift.memory.neighbours
        judged = dict.fromkeys(widths, Width(held, held))
    all_narrow = drift.field in SOFTMAX and all(w.is_narrow(n) for w in judged.values())
    findings = []
    for tau, width in judged.items():
        text = f"attraction is spread over {widths[tau].spread:.1f} of {n:.0f} reals"
        advice = ""
        if width.spread > FLAT * n:
            advice = f"flat: give {narrower(drift, tau)}"
        elif all_narrow:
            fault = "saturated"
            if width.at_floor(n):
                fault = "at its floor, where no real is near"
            advice = f"{fault}: give {wider(drift, tau)}, or --drift.field sinkhorn"
        findings.append(Finding(f"kernel at {tau:g}", text, advice))
    return findings


def narrower(drift: DriftConfig, tau: float) -> str:
    """Returns the words for a kernel that is narrower than at a temperature."""
    if isinstance(drift.memory, Temperatures):
        return f"--drift.neighbours below {drift.memory.neighbours:g}"
    return f"--drift.temperatures below {tau:g}"


def wider(drift: DriftConfig, tau: float) -> str:
    """Returns the words for a kernel that is wider than at a temperature."""
    if isinstance(drift.memory, Temperatures):
        return f"--drift.neighbours above {drift.memory.neighbours:g}"
    return f"--drift.temperatures above {tau:g}"


class Width(NamedTuple):
    """Over how many reals the attraction spreads at one temperature."""

    spread: float
    in_field: float  # the same in the field, whose A^2 is clipped at 1e-6 from below

    def at_floor(self, n: float) -> bool:
        """Returns whether all of n reals count alike only because all are clipped."""
        return self.spread <= FLAT * n < self.in_field

    def is_narrow(self, n: float) -> bool:
        return self.spread < SATURATED or self.at_floor(n)


def _width(sets: Sequence[FeatureSet], drift: DriftConfig, tau: float) -> Width:
    kernel = _kernel_of(drift)

    def spread(one):
        weights = attraction(one.gen, one.pos, one.weight_pos, one.at(tau), one.unit, kernel)
        return float(jnp.median(jax.vmap(perplexity)(weights)))

    without_floor = _median(sets, spread)
    if drift.field != "kernel":
        return Width(without_floor, without_floor)
    return Width(without_floor, _median(sets, lambda s: _perplexity_in_field(s, drift, tau)))


def _perplexity_in_field(one: FeatureSet, drift: DriftConfig, tau: float) -> float:
    options = tuple(sorted(drift.field_options.items()))
    numbers = jnp.array([one.at(tau)]), jnp.full(len(one.gen), one.unit)
    found = _compiled_perplexity(one.arrays, *numbers, drift.field, drift.guidance, options)
    return float(jnp.median(found))


@functools.partial(jax.jit, static_argnames=("field", "guidance", "options"))
def _compiled_perplexity(arrays, tau, unit, field: str, guidance: str, options: tuple):
    chosen = make_field(field, dict(options))
    return guided_field(one_set_of_problems(**arrays), tau, unit, chosen, guidance)[1]


class Kernel(NamedTuple):
    """What the attraction of a field follows from; its parts are options of the fields."""

    kernel: str
    normalize: str
    iterations: float | None  # of Sinkhorn's algorithm; None for a softmax


def _kernel_of(drift: DriftConfig) -> Kernel:
    options = drift.field_options
    return Kernel(options["kernel"], options.get("normalize", ""), options.get("iterations"))


@functools.partial(jax.jit, static_argnames="kernel")
def attraction(x, pos, weight_pos, tau, unit, kernel: Kernel) -> jax.Array:
    """Returns how samples x [B, N, D] spread their attraction: rows [B, N, P] of sum 1.

    It is W+ of the field without its floor of 1e-6, by which a far sample looks like a flat kernel.
    """

    def of_problem(x, pos, weight):
        logit = log_kernel(x, pos, kernel.kernel, tau, unit, 0)
        if kernel.iterations is not None:
            log_a = jnp.full(len(x), -jnp.log(len(x)))
            logit = log_plan(logit, log_a, log_weight(weight), kernel.iterations)
        elif kernel.normalize == "both":
            logit -= jax.nn.logsumexp(logit, axis=0, keepdims=True) / 2
        return jax.nn.softmax(logit + log_weight(weight), axis=1)

    return jax.vmap(of_problem)(x, pos, weight_pos)


def is_unnormalised(drift: DriftConfig) -> bool:
    """Returns whether the field is a plain sum over the kernel, which no softmax measures."""
    options = drift.field_options
    return options.get("normalize") == "none" or options.get("iterations") == 0


def _median(sets: Sequence[FeatureSet], measure) -> float:
    return float(np.median([measure(one) for one in sets]))


# ---------------------------------------------------------------- the bias of few samples

# A fourth: the attraction is a mean of fewer than four reals, at its widest.
BIAS = 0.25


def bias(sets: Sequence[FeatureSet], drift: DriftConfig) -> list[Finding]:
    """Tells how much of the attraction is the bias of few reals, at the widest temperature.

    A centroid c of weights w that follow a softmax misses that of all data by sum w^2 (y - c), to
    first order (arXiv 2604.27239). sum w^2, one over the number of reals that count, is the share:
    1 where a sample follows one real alone. The correction leaves its square.
    """
    if drift.field not in SOFTMAX or is_unnormalised(drift):
        return []
    shares = [
        _median(sets, lambda s, tau=tau: _bias_share(s, drift, tau)) for tau in drift.temperatures
    ]
    share, is_corrected = min(shares), drift.field_options["bias_correction"]
    if is_corrected:
        share = share**2
    advice = ""
    if share > BIAS:
        advice = f"give {more_positives(drift)} or {wider(drift, max(drift.temperatures))}"
        if not is_corrected:
            advice = f"give --drift.bias_correction 1, {advice.removeprefix('give ')}"
    text = f"{share:.0%} of the attraction, at the widest temperature"
    return [Finding("bias of few reals", text, advice)]


def more_positives(drift: DriftConfig) -> str:
    """Returns the words for more positives: with the joint they are as many as conditions."""
    return "a larger --batch_size" if drift.joint else "more --drift.n_pos"


def _bias_share(one: FeatureSet, drift: DriftConfig, tau: float) -> float:
    kernel = _kernel_of(drift)
    weights = attraction(one.gen, one.pos, one.weight_pos, one.at(tau), one.unit, kernel)
    return float(jnp.median(jnp.sum(weights**2, -1)))


# ---------------------------------------------------------------- coverage


# A real counts as covered with a tenth of its due. As many reals in the place of the samples tell
# how many can be; with half of theirs, a half of the class is left out.
DUE = 0.1
COVERED = 0.5


def coverage(sets: Sequence[FeatureSet], drift: DriftConfig) -> list[Finding]:
    """Compares the reals that generated samples are drawn to with those that other reals are.

    It is done at the smallest temperature, at which a sample follows the nearest reals alone. The
    plan of Sinkhorn's algorithm covers all reals by itself.
    """
    if drift.field not in SOFTMAX or drift.positives < 2 * FEWEST:
        return []
    tau = min(drift.temperatures)
    by_gen = _median(sets, lambda s: covered(s, s.gen, drift, tau))
    by_reals = _median(sets, lambda s: covered(s, s.pos[:, ::2], drift, tau))
    advice = ""
    if by_gen < COVERED * by_reals:
        advice = "give --drift.field sinkhorn, more --drift.n_neg, or a lower --optim.learning_rate"
    text = (
        f"samples are drawn to {by_gen:.0%} of the reals, where other reals are to {by_reals:.0%}"
    )
    return [Finding("coverage", text, advice)]


def covered(one: FeatureSet, x: jax.Array, drift: DriftConfig, tau: float) -> float:
    """Returns the share of every second positive that is covered by the samples x [B, ., D].

    As many of x are taken as there are generated samples, and positives left.
    """
    pos, weight = one.pos[:, 1::2], one.weight_pos[:, 1::2]
    x = evenly(x, min(one.gen.shape[1], pos.shape[1]))
    weights = attraction(x, pos, weight, one.at(tau), one.unit, _kernel_of(drift))
    mass = jnp.mean(weights, 1)  # [B, P / 2]
    present = weight > 0
    due = 1 / jnp.sum(present, 1, keepdims=True)
    return float(jnp.sum((mass >= DUE * due) & present) / jnp.sum(present))


def evenly(x: jax.Array, n: int, of_odd: bool = False) -> jax.Array:
    """Returns n samples out of x [B, N, D], evenly spaced.

    With the joint these are of every second condition, as every second positive is.

    Args:
        x: samples, N >= n; with the joint as many of each condition, one condition after the other.
        n: how many.
        of_odd: whether they are to be of the conditions 1, 3, ... and not of 0, 2, ...
    """
    stride = x.shape[1] // n
    return x[:, stride // 2 * of_odd :: stride][:, :n]


# ---------------------------------------------------------------- the force

# A generator of the data itself has 1, for all that is left of its force is sampling noise: digits
# come to 0.98 in 400 steps, and learn on by the average over steps. Samples that coincide in the
# middle of their class have next to none, and stay there: a collapsed run has 0.09.
FLOOR = 0.5


def force(sets: Sequence[FeatureSet], drift: DriftConfig) -> list[Finding]:
    """Compares the size of V on generated samples with that on reals in their place.

    Half of the positives attract both, as many samples of either repel one another, and there is no
    guidance. Between two halves of the reals V is sampling noise, the floor. Of several
    temperatures the one counts where the force stands highest above it.
    """
    n = min(sets[0].gen.shape[1], sets[0].pos.shape[1] // 2)
    if drift.field not in (*SOFTMAX, "sinkhorn") or n < 2:  # one sample has none to repel it
        return []
    ratio = float(np.max(np.median([_above_floor(one, drift, n) for one in sets], 0)))
    advice = ""
    if ratio < FLOOR:
        advice = (
            "samples lie where the field is at rest, as they do when they coincide: begin again "
            f"with a lower --optim.learning_rate or {wider(drift, max(drift.temperatures))}"
        )
    text = f"V is {ratio:.2f} of its size on reals in the place of samples, which is noise"
    return [Finding("force", text, advice)]


def _above_floor(one: FeatureSet, drift: DriftConfig, n: int) -> np.ndarray:
    """Returns the size of V on n samples of a set, over that on n reals, at each temperature."""
    half, weight = one.pos[:, ::2], one.weight_pos[:, ::2]
    rest, weight_rest = one.pos[:, 1::2][:, :n], one.weight_pos[:, 1::2][:, :n]
    taus = [one.at(tau) for tau in drift.temperatures]
    numbers = jnp.array(taus), jnp.full(len(half), one.unit)
    options = tuple(sorted(drift.field_options.items()))

    def size(x, weight_x):
        found = _size_of_field(x, weight_x, half, weight, *numbers, drift.field, options)
        return np.asarray(found, np.float64)

    floor = size(rest, weight_rest)
    gen = evenly(one.gen, n, of_odd=True)
    return size(gen, jnp.ones_like(weight_rest)) / np.maximum(floor, 1e-30)


@functools.partial(jax.jit, static_argnames=("field", "options"))
def _size_of_field(x, weight_x, pos, weight_pos, tau, unit, field: str, options: tuple):
    """Returns the root mean square of V at each temperature, of samples x [B, N, D]."""
    problems = one_set_of_problems(x, pos, weight_gen=weight_x, weight_pos=weight_pos)
    v, _ = guided_field(problems, tau, unit, make_field(field, dict(options)), "negatives")
    present = jnp.broadcast_to((weight_x > 0)[:, None, :, None], v.shape)
    return jnp.sqrt(jnp.mean(v**2, (0, 2, 3), where=present))


# ---------------------------------------------------------------- the bank

# A real that is compared a hundred times before it leaves is learned by heart: the paper's recipes
# have 4 (docs/step.md), its release for one host 64.
OFTEN = 100
# Less than half of the data in the bank over the whole run.
SEEN = 0.5
# A fourth of the positives absent.
ABSENT = 0.25


def bank(sets: Sequence[FeatureSet], drift: DriftConfig, facts: BankFacts) -> list[Finding]:
    """Compares how long a real stays in its queue with how often it is drawn there."""
    findings = [_absent(drift, facts)]
    if not facts.pushed:
        text = "it holds all data, so nothing ages"
        return [*findings, Finding("age of the bank", text)]
    n_classes = len(facts.filled)
    age = facts.per_class * n_classes / facts.pushed
    uses = drift.n_c * drift.n_pos / facts.pushed
    seen = n_classes * facts.per_class + facts.pushed * facts.max_steps
    share = min(seen / facts.in_data, 1.0)
    holds_most = n_classes * facts.per_class >= SEEN * facts.in_data
    advice = ""
    if uses < 1:
        advice = "most leave without use: give a smaller --drift.bank_push, or "
        advice += more_positives(drift)
    elif uses > OFTEN and not holds_most:
        advice = "it follows few reals: give a larger --drift.bank_push"
    elif share < SEEN:
        advice = "the rest is never seen: give a larger --drift.bank_push or --max_steps"
    text = (
        f"a real stays {age:.0f} steps and is drawn {uses:.2g} times; "
        f"{share:.0%} of the data comes by in {facts.max_steps} steps"
    )
    return [*findings, Finding("age of the bank", text, advice)]


# This share of the classes may have fewer reals than the positives that are advised.
FEW = 0.1


def _absent(drift: DriftConfig, facts: BankFacts) -> Finding:
    asked = min(drift.n_pos, facts.per_class)
    absent = 1 - float(np.mean(np.minimum(facts.filled, asked))) / asked
    advice = ""
    if absent > ABSENT:
        advice = "give classes with more images"
        most_have = int(np.quantile(facts.filled, FEW))
        if 1 <= most_have < asked:
            advice = f"give --drift.n_pos {most_have}, or classes with more images"
    text = f"{absent:.0%} of {asked} positives per class are missing in the bank"
    return Finding("positives", text, advice)


# ---------------------------------------------------------------- feature sets

# Reals of a class that differ by less than this share of their size differ by rounding: float32
# has 6e-8, which sums over a map of a network make a hundred times larger.
CONSTANT = 1e-5
# A set for which noise of 1% is half of the way to another image tells nothing of the image.
NOISE = 0.5
# A set that noise of 1% does not move at all has no gradient.
STILL = 1e-6


def feature_sets(sets: Sequence[FeatureSet], drift: DriftConfig) -> list[Finding]:
    """Looks for sets that are alike for all reals of a class, and that do not depend on the image.

    It does not depend on the field, nor on how far the training is.
    """
    findings = []
    for one in sets:
        weight = one.weight_pos[:, :, None] > 0
        mean = jnp.mean(one.pos, 1, keepdims=True, where=weight)
        size = jnp.sqrt(jnp.mean(jnp.square(one.pos), where=weight))
        spread = jnp.sqrt(jnp.mean(jnp.square(one.pos - mean), where=weight))
        spread = float(spread / jnp.maximum(size, 1e-30))
        step = jnp.mean(jnp.linalg.norm(one.nudged - one.gen, axis=-1))
        step = float(step) / max(one.unit, 1e-30)
        if spread < CONSTANT:
            text = f"it is the same for all reals, to {spread:.1g} of its size"
        elif step > NOISE:
            text = f"noise of 1% moves it by {step:.2g} of the distance between samples"
        elif step < STILL:
            text = "it does not move with the image, so no gradient comes of it"
        else:
            continue
        findings.append(Finding(f"feature set {one.name}", text, how_to_drop(one.name)))
    if findings:
        return findings
    return [Finding("feature sets", f"all {len(sets)} tell images apart")]


def how_to_drop(name: str) -> str:
    """Returns what to do about a feature set that tells nothing."""
    if name == "global":
        return "take none out of --encoder.name, or name another encoder there"
    encoder, slash, own_name = name.rpartition("/")
    of_encoder = f", in the place of {encoder}" if slash else ""
    return f'give --encoder.layers the names of the maps, and "!{own_name}"{of_encoder}'


# ---------------------------------------------------------------- encoders

# The largest part of the loss over the smallest, beyond which an encoder is not heard.
BALANCE = 20.0


def balance(sets: Sequence[FeatureSet], drift: DriftConfig) -> list[Finding]:
    """Compares the parts of the loss of several encoders.

    The raw sample has one set by design, beside those of an encoder: it counts where it is large.
    """
    parts = {}
    for one in sets:
        parts[one.encoder] = parts.get(one.encoder, 0.0) + one.loss
    if len(parts) < 2:
        return []
    total = sum(parts.values())
    networks = {name: part for name, part in parts.items() if name != "none"}
    advice = ""
    silent = [name for name, part in parts.items() if not part > 0]
    if silent:
        advice = f"{', '.join(silent)} adds nothing: leave it out of --encoder.name"
    elif max(parts.values()) > BALANCE * min(networks.values()):
        weights = " ".join(
            f"{name} x{total / len(parts) / part:.2g}" for name, part in parts.items()
        )
        advice = f"in a new run, --encoder.weights of now times {weights} make them equal"
        if not drift.battery.is_balanced:
            advice += ", and so does --encoder.balance 1 without weights"
    shares = {name: part / max(total, 1e-30) for name, part in parts.items()}
    text = ", ".join(f"{name} has {share:.0%}" for name, share in shares.items()) + " of the loss"
    return [Finding("encoders", text, advice)]


# ---------------------------------------------------------------- guidance

# The top tenth of the range is drawn so often for each class, at least, over the whole run.
DRAWS = 1.0


def guidance(sets: Sequence[FeatureSet], drift: DriftConfig, max_steps: int) -> list[Finding]:
    """Tells how often the top tenth of the range of guidance scales is drawn (Sec. 3.5, A.7)."""
    low, high, power = drift.alpha_min, drift.alpha_max, drift.alpha_power
    if high == 1:
        return []
    from_here = low + 0.9 * (high - low)
    share = (1 - drift.no_cfg_frac) * share_above(from_here, low, high, power)
    draws = share * max_steps * drift.n_c / drift.n_classes
    advice = ""
    if draws < DRAWS:
        advice = "give a smaller --drift.alpha_max or --drift.alpha_power"
        if drift.no_cfg_frac == 1:
            advice = "give --drift.no_cfg_frac below 1, or --drift.alpha_max 1"
    text = (
        f"alpha of {from_here:.3g} to {high:.3g} is drawn {draws:.2g} times for each class "
        f"in {max_steps} steps"
    )
    return [Finding("guidance", text, advice)]


def share_above(alpha: float, low: float, high: float, power: float) -> float:
    """Returns the probability of a scale above alpha, with p(a) ~ a^-power on [low, high]."""
    if low == high:
        return float(alpha <= high)
    if power == 1:
        return float(np.log(high / alpha) / np.log(high / low))
    exponent = 1 - power
    # Measured from low, so that a large power does not overflow.
    top, here = (high / low) ** exponent, (alpha / low) ** exponent
    return float((top - here) / (top - 1))


def all_findings(sets: Sequence[FeatureSet], drift: DriftConfig, facts: BankFacts) -> list[Finding]:
    """Returns every finding that has a meaning for the field of the run."""
    return [
        *kernel_width(sets, drift),
        *bias(sets, drift),
        *coverage(sets, drift),
        *force(sets, drift),
        *bank(sets, drift, facts),
        *feature_sets(sets, drift),
        *balance(sets, drift),
        *guidance(sets, drift, facts.max_steps),
    ]
