"""One of the processes of `test_eval.test_processes`.

Its arguments are the rank, the number of processes, the port, and the folder of the results; for
Inception also the file of its weights and the .npz of the real images.
"""

import pathlib
import sys

rank, ranks, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
folder = pathlib.Path(sys.argv[4])
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402

jax.distributed.initialize(f"localhost:{port}", ranks, rank)

from test_eval import tiny_generator  # noqa: E402

from evaluation.evaluate import evaluate  # noqa: E402
from evaluation.load_reference import load_reference  # noqa: E402
from evaluation.scoring import score  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.sharding import local_sharding  # noqa: E402

model, params = tiny_generator()
inception = {}
batch_size, num_samples = 16, 101
if sys.argv[5:]:
    inception = {
        "features": "inception",
        "inception_weights": sys.argv[5],
        "fid_stats": sys.argv[6],
    }
    batch_size, num_samples = 4, 21
reference = load_reference("digits", sharding=local_sharding(), batch_size=batch_size, **inception)
seen = []
scores = evaluate(
    model,
    params,
    reference,
    cfg_scale=1.5,
    seed=3,
    num_samples=num_samples,
    batch_size=batch_size,
    sharding=local_sharding(),
    on_batch=seen.append,
)
# What goes wrong in the samples of one process stops both; the other does not wait forever.
try:
    images = np.full((8, 8, 8, 1), np.nan if rank == 1 else 0.0, np.float32)
    score(iter([images]), reference, None, 8, None)
    refused = ""
except UserError as error:
    refused = str(error)
np.savez(folder / f"{rank}.npz", images=np.concatenate(seen), refused=refused, **scores)
