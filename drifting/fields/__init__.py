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

Two options are common to the fields of samples: V = attraction V+ - repulsion V-. Other factors
than 1 break the antisymmetry, and with it the result (Table 1).

A field may have a memory, see drifting/memory.py: a state of its own, which tells it more about a
problem by further keyword arguments. To the field `frechet`, which compares moments, it tells all
that counts; pos and neg play no part there, and V = 0 where the moments are the same.

A new field is one function of this signature in a file of this folder, with its memory if it has
one, and one line in FIELDS.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from drifting.fields.frechet import Moments, frechet_field
from drifting.fields.kernel import kernel_field
from drifting.fields.learned import Network, learned_field
from drifting.fields.mmd import Embedding, mmd_field
from drifting.fields.sinkhorn import sinkhorn_field
from drifting.fields.uncoupled import uncoupled_field
from drifting.memory import Memory


class Discrepancy(NamedTuple):
    """One way to compare generated samples with reals."""

    field: Callable  # V of one problem
    memory: type[Memory] = Memory  # what it keeps from step to step; most keep nothing
    takes_learned: bool = False  # whether its temperatures can be learned (temperature.py)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.field(*args, **options)

    @property
    def field_options(self) -> tuple[str, ...]:
        """The names of the keyword arguments of the field."""
        parameters = inspect.signature(self.field).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)

    @property
    def memory_options(self) -> tuple[str, ...]:
        """The names of the arguments of the memory."""
        return tuple(getattr(self.memory, "__dataclass_fields__", ()))


FIELDS = {
    "kernel": Discrepancy(kernel_field, takes_learned=True),
    "uncoupled": Discrepancy(uncoupled_field, takes_learned=True),
    "sinkhorn": Discrepancy(sinkhorn_field, takes_learned=True),
    "mmd": Discrepancy(mmd_field, Embedding),
    "frechet": Discrepancy(frechet_field, Moments),
    "learned": Discrepancy(learned_field, Network),
}


def find_field(field: str | Callable) -> Callable:
    """Returns the field of a name in FIELDS; a function is returned as it is."""
    return FIELDS[field].field if isinstance(field, str) else field


def make_field(field: str | Callable, options: dict) -> Callable:
    """Returns a field closed over its options.

    Args:
        field: a name in FIELDS, or a function.
        options: keyword arguments of that function.
    """
    return functools.partial(find_field(field), **options)
