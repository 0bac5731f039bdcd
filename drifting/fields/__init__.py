"""The drifting field V (Sec. 3.3, Alg. 2): where each generated sample should move.

A field is a function of ONE problem: generated samples x, positives y+ ~ p (data), and negatives
y- ~ q (generated samples, and unconditional reals for guidance):

    V, perplexity = field(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, **options)

    x           [N, D]  generated samples
    pos         [P, D]  positives
    neg         [M, D]  negatives
    weight_pos  [P]     >= 0; a sample of weight 0 is as if it were not there (but see the option
                        `absent` of the kernel field)
    weight_neg  [M]     the same for the negatives
    tau         scalar  temperature
    self_neg    int     N when neg[:N] are x themselves, since a sample does not repel itself; or 0
    unit        scalar  S sqrt(D), the length of a typical distance; the temperature is measured in
                        it, tau_j = tau unit

    V           [N, D]  the displacement; 0 when pos and neg are the same weighted set
                        (antisymmetry, eq. 3)
    perplexity  [N]     over how many positives x spreads its attraction, for monitoring

Two options are common to all fields: V = attraction V+ - repulsion V-. Other factors than 1 break
the antisymmetry, and with it the result (Table 1).

A new field is one function of this signature in a file of this folder, and one line in FIELDS.
"""

import functools
from collections.abc import Callable

from drifting.fields.kernel import kernel_field
from drifting.fields.learned import learned_field
from drifting.fields.mmd import mmd_field
from drifting.fields.sinkhorn import sinkhorn_field
from drifting.fields.uncoupled import uncoupled_field

FIELDS = {
    "kernel": kernel_field,
    "uncoupled": uncoupled_field,
    "sinkhorn": sinkhorn_field,
    "learned": learned_field,
    "mmd": mmd_field,
}


def find_field(field: str | Callable) -> Callable:
    """Returns the field of a name in FIELDS; a function is returned as it is."""
    return FIELDS[field] if isinstance(field, str) else field


def make_field(field: str | Callable, options: dict, state: dict | None = None) -> Callable:
    """Returns a field closed over its options.

    Args:
        field: a name in FIELDS, or a function.
        options: keyword arguments of that function.
        state: of a learned field (learned.py); the field then uses the average of its parameters.
    """
    if state:
        average = next(iter(state["ema"].values()))
        options = options | {"params": average}
    return functools.partial(find_field(field), **options)
