"""One of the processes of `test_streaming.test_real_processes`.

    stream_process.py COORDINATOR RANKS RANK NAME OPTIONS SEED BATCH_SIZE POSITION BATCHES OUT

It takes its part of the stream by what the JAX runtime says of it, as the trainer does, and joins
the parts on the devices. OUT is the .npz of the batches.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

coordinator, ranks, rank, name, options, seed, batch_size, position, batches, out = sys.argv[1:]
if int(ranks) > 1:
    jax.distributed.initialize(coordinator, int(ranks), int(rank))

# The runtime has to know of the other processes before anything else touches the devices.
import data  # noqa: E402
from data import pipeline  # noqa: E402
from utils import sharding  # noqa: E402

dataset = data.load(name, options=json.loads(options))
own_size = int(batch_size) // jax.process_count()
own_stream = pipeline.stream(
    dataset, int(seed), own_size, int(position), jax.process_index(), jax.process_count()
)
exchange = sharding.RowExchange(sharding.make_mesh(0, 1), own_size)
taken = [exchange(next(own_stream)) for _ in range(int(batches))]
own_stream.close()
if jax.process_index() == 0:
    np.savez(
        out,
        images=np.concatenate([np.asarray(images) for images, _ in taken]),
        labels=np.concatenate([np.asarray(labels) for _, labels in taken]),
    )
