"""The drifting field V (Sec. 3.3, Alg. 2): where each generated sample should move.

A field is a function of ONE problem: generated x, positives y+ ~ p (data), negatives y- ~ q (generated, and unconditional reals for guidance):

    V, perplexity = field(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, **options)

    x           [N, D]  generated samples      pos  [P, D]      neg  [M, D]
    weight_pos  [P]     weight_neg [M]: >= 0; a sample of weight 0 is as if it were not there
    tau         scalar  temperature
    self_neg    int     0, or N when neg[:N] are x themselves: a sample does not repel itself
    unit        scalar  S sqrt(D), the length of a typical distance, in which the temperature is measured: tau_j = tau unit

    V           [N, D]  the displacement, = 0 when pos and neg are the same weighted set (antisymmetry, eq. 3)
    perplexity  [N]     over how many positives x shares its attraction (for monitoring)

A new field is one such function and one line in FIELDS. Options of all: V = attraction V+ - repulsion V-; other factors than 1 break the antisymmetry (Table 1).
"""

import functools

import jax
import jax.numpy as jnp

from drifting import tiled
from drifting.kernel import MASKED, log_kernel, perplexity
from drifting.learned import learned_field
from drifting.sinkhorn import sinkhorn_field
from drifting.uncoupled import uncoupled_field


def kernel_field(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit=1.0, *, kernel="laplace", normalize="both", attraction=1.0, repulsion=1.0):
    """Algorithm 2: the kernel (eq. 12) normalised over y and over x; over y alone, or not at all (Table 11)."""
    if pos.shape[0] > tiled.TILE:
        return tiled.kernel_field(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, kernel=kernel, normalize=normalize, attraction=attraction, repulsion=repulsion)
    y = jnp.concatenate([neg, pos])  # [M+P, D]
    weight = jnp.concatenate([weight_neg, weight_pos])  # [M+P]
    logit = log_kernel(x, y, kernel, tau, unit, self_neg)  # [N, M+P]
    over_y = jax.nn.softmax(jnp.where(weight > 0, logit, MASKED), axis=1)
    over_x = jax.nn.softmax(logit, axis=0)
    a_squared = {"both": over_y * over_x, "y": over_y**2, "none": jnp.exp(2 * logit)}[normalize]
    a = jnp.sqrt(jnp.maximum(a_squared, 1e-6)) * weight  # [N, M+P]
    is_neg = jnp.arange(y.shape[0]) < neg.shape[0]
    sum_neg, sum_pos = (jnp.sum(jnp.where(side, a, 0), 1, keepdims=True) for side in (is_neg, ~is_neg))
    w = a * jnp.where(is_neg, -repulsion * sum_pos, attraction * sum_neg)  # W- = A- sum(A+), W+ = A+ sum(A-)

    centre = jnp.mean(y, 0)  # without a common offset, which would cancel away digits
    v = jnp.matmul(w, y - centre, precision=jax.lax.Precision.HIGHEST)  # V = W+ y+ - W- y-
    return v - (attraction - repulsion) * sum_pos * sum_neg * (x - centre), perplexity(a[:, neg.shape[0] :])


FIELDS = {"kernel": kernel_field, "uncoupled": uncoupled_field, "sinkhorn": sinkhorn_field, "learned": learned_field}


def make_field(field, options, state=None):
    """`field`, a name in FIELDS or a function, closed over its options and, if it learns, over the average of its parameters in `state` (drifting/learned.py)."""
    parameters = {"params": next(iter(state["ema"].values()))} if state else {}
    return functools.partial(FIELDS[field] if isinstance(field, str) else field, **options, **parameters)
