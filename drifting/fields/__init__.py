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

from drifting.fields.kernel import kernel_field
from drifting.fields.learned import learned_field
from drifting.fields.sinkhorn import sinkhorn_field
from drifting.fields.uncoupled import uncoupled_field

FIELDS = {
    "kernel": kernel_field,
    "uncoupled": uncoupled_field,
    "sinkhorn": sinkhorn_field,
    "learned": learned_field,
}


def make_field(field, options, state=None):
    """`field`, a name in FIELDS or a function, closed over its options and, if it learns, over the average of its parameters in `state` (drifting/learned.py)."""
    parameters = {"params": next(iter(state["ema"].values()))} if state else {}
    return functools.partial(
        FIELDS[field] if isinstance(field, str) else field, **options, **parameters
    )
