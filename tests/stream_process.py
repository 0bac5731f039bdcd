"""One of the processes of `test_streaming.test_real_processes`: coordinator, processes, rank, data set, options, seed, batch size, position, batches, file to write.

It takes its part of the stream by what the JAX runtime says of it, as the trainer does, and joins the parts on the devices.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402

coordinator, ranks, rank, name, options, seed, size, position, batches, out = sys.argv[1:]
if int(ranks) > 1:
    jax.distributed.initialize(coordinator, int(ranks), int(rank))

import data  # noqa: E402
from data import pipeline  # noqa: E402
from utils import sharding  # noqa: E402

dataset = data.load(name, options=json.loads(options))
rank, ranks, size = jax.process_index(), jax.process_count(), int(size)
mine = pipeline.stream(dataset, int(seed), size // ranks, int(position), rank, ranks)
join = sharding.RowExchange(sharding.make_mesh(0, 1), size // ranks)
taken = [join(next(mine)) for _ in range(int(batches))]
mine.close()
if rank == 0:
    np.savez(
        out,
        images=np.concatenate([np.asarray(x) for x, _ in taken]),
        labels=np.concatenate([np.asarray(k) for _, k in taken]),
    )
