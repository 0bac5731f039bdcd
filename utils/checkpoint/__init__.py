"""Checkpoints of a run. The only folder that knows Orbax. On disk, for each step:

    <step>/<item>/...          one Orbax tree per item: "params", "ema_0.999", "opt_state", "bank"
    <step>/metadata/metadata   JSON
    <step>/crc32.json          size and CRC-32 of every file above; Orbax sees no flipped bits

A step's folder appears by one rename after all of it is written, so a folder with a number as its
name is complete. A bucket has no renames: there a step is complete once it has its crc32.json,
which is written last. Reading never writes, so that a run can be evaluated while it trains. The
files are the same in both places, so that a run moves between them by copying.

What a checkpoint of a trainer contains is decided in `training/`. The files of this folder:

    checkpoints   the class `Checkpoints`: when to save, which step to restore
    reading       one item from disk to a tree of arrays
    checksums     crc32.json: what is damaged
    trees         a tree of arrays as {"path/of/leaf": array}, the form in which it is stored
    lazy_orbax    the import of Orbax, when it is needed, and how it writes arrays
    in_buckets    what Orbax has to be told where checkpoints are in a bucket
"""

from utils.checkpoint.checkpoints import Checkpoints

__all__ = ["Checkpoints"]
