"""Where every array lives on the devices.

All devices of all processes form one mesh with two axes. With 8 devices and `--mesh.fsdp 2`:

                fsdp 0     fsdp 1
    data 0     device 0   device 1
    data 1     device 2   device 3
    data 2     device 4   device 5
    data 3     device 6   device 7

The devices of a line hold one copy of the parameters between them (fully sharded data parallelism,
FSDP). Samples are spread over all devices. What lives where, and who says so:

    parameters, optimiser, averages    each large array divided over fsdp     state_shardings
    parameters while they are used     whole on every device                  all_gather
    frozen networks, learned field     whole on every device                  replicated
    bank of reals, a small one         whole on every device                  replicated
    bank of reals, a large one         a part of each sample on each device,  within_samples
                                       or in host memory
    new reals for the bank             read in parts by the processes         RowExchange
    samples of a step, by classes      classes or their samples over devices  choose_layout
    batches without classes            divided evenly over all devices        batch_sharding
    samples of an evaluation           over the devices of one process        local_sharding
    arrays of a checkpoint             as the present mesh wants them         shapes_with_shardings

A sharding only says where an array lives. The compiler adds the communication that follows from
it, and the numbers stay those of one device but for rounding.
"""

import collections
import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from utils.errors import UserError

ALL_AXES = ("data", "fsdp")
MIN_SHARDED_SIZE = 2**14  # smaller parameters are not worth a collective of their own


# ---------------------------------------------------------------- the mesh


def make_mesh(n_devices: int, fsdp: int) -> Mesh:
    """Returns the mesh (data, fsdp) over the first devices.

    Args:
        n_devices: how many devices to use; 0 for all.
        fsdp: how many of them share one copy of the parameters.
    Raises:
        UserError: there are not so many devices, or fsdp does not divide them.
    """
    devices = jax.devices()
    n_devices = n_devices or len(devices)
    if not 1 <= n_devices <= len(devices):
        raise UserError(
            f"--mesh.devices {n_devices}: there are {len(devices)} devices; give 1 to "
            f"{len(devices)}, or 0 for all."
        )
    if n_devices != len(devices) and jax.process_count() > 1:
        raise UserError(
            f"--mesh.devices {n_devices}: a job of {jax.process_count()} processes uses all of its "
            f"{len(devices)} devices; leave it out, or start fewer processes."
        )
    return mesh_from_devices(devices[:n_devices], fsdp)


def mesh_from_devices(devices: Sequence[Any], fsdp: int) -> Mesh:
    """Returns the mesh (data, fsdp) over given devices, which need not exist on this machine.

    The compiler can plan for devices of which it has a description alone. Raises UserError unless
    fsdp divides their number.
    """
    if len(devices) % fsdp:
        raise UserError(
            f"--mesh.fsdp {fsdp}: it must divide the number of devices, {len(devices)}."
        )
    grid = rearrange(np.array(devices), "(data fsdp) -> data fsdp", fsdp=fsdp)
    return Mesh(grid, ALL_AXES)


# ---------------------------------------------------------------- whole arrays, and even batches


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that divides the leading axis evenly over all devices."""
    return NamedSharding(mesh, P(ALL_AXES))


def within_samples(
    mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...], leading: int
) -> NamedSharding:
    """Returns the sharding that divides each sample over axes of the mesh.

    Samples are then written where they are, without communication. Whoever takes some of them whole
    asks each device for its parts of these (an all-to-all).

    Args:
        mesh: the mesh of the run.
        axes: of the mesh, over which samples are divided; along the others there are copies.
        shape: of the array. Its largest axis that can be divided within the samples is divided;
            where none can, the array is whole on every device.
        leading: the number of axes that tell the samples apart.
    """
    axis = _largest_divisible(shape[leading:], math.prod(mesh.shape[name] for name in axes))
    if axis is None:
        return replicated(mesh)
    axes_before = (None,) * (leading + axis)
    return NamedSharding(mesh, P(*axes_before, axes))


def local_sharding(mesh: Mesh | None = None) -> NamedSharding:
    """Returns the sharding of the leading axis over the devices of this process alone.

    It is for work that a process does without the others, such as its part of an evaluation.

    Args:
        mesh: whose devices to use; None for all.
    """
    mesh = mesh or make_mesh(0, 1)
    return NamedSharding(Mesh(np.array(mesh.local_devices), ("samples",)), P("samples"))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays that every process holds whole, and with the same values, onto a mesh.

    Each process copies only what its own devices shall hold; nothing travels between processes.
    """
    if sharding.is_fully_addressable:  # all devices are of this process
        return jax.device_put(tree, sharding)

    def put_array(array):
        array = np.asarray(array)
        part_of_device = sharding.addressable_devices_indices_map(array.shape)
        parts = [jax.device_put(array[part], device) for device, part in part_of_device.items()]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)

    return jax.tree.map(put_array, tree)


def _same(tree: Any) -> Any:
    return tree


def local_copy(mesh: Mesh, tree: Any) -> Any:
    """Returns arrays that this process can use alone.

    With several processes they are whole on each of its devices; with one they stay as they are.
    All processes must call this together, because shards travel between them.
    """
    if jax.process_count() == 1:
        return tree
    # A named function, not a lambda: jit knows what it has compiled by the function itself, and
    # would compile a new lambda at every call.
    everywhere = jax.jit(_same, out_shardings=replicated(mesh))(tree)
    # Every device has a whole copy now. The same buffers, seen as arrays on a mesh of this
    # process's devices, can be used by programs that the other processes do not run.
    alone = NamedSharding(local_sharding(mesh).mesh, P())

    def only_here(array):
        copies = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, alone, copies)

    return jax.tree.map(only_here, everywhere)


# ---------------------------------------------------------------- the state of the training


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Returns a tree of shardings for the parameters, the optimiser and the averages.

    Each large array is divided over fsdp along its largest axis that fsdp divides. The others are
    whole on every device.

    Args:
        mesh: the mesh of the run.
        state: a tree of arrays, or of their shapes.
    """
    parts = mesh.shape["fsdp"]

    def sharding_of(array):
        axis = _axis_to_divide(array.shape, parts)
        if axis is None:
            return replicated(mesh)
        axes_before = (None,) * axis
        return NamedSharding(mesh, P(*axes_before, "fsdp"))

    return jax.tree.map(sharding_of, state)


def _axis_to_divide(shape: tuple[int, ...], parts: int) -> int | None:
    """Returns the largest axis that `parts` divides, or None for an array to keep whole."""
    if math.prod(shape) < MIN_SHARDED_SIZE:
        return None
    return _largest_divisible(shape, parts)


def _largest_divisible(shape: tuple[int, ...], parts: int) -> int | None:
    """Returns the largest axis that `parts`, if they are several, divide; None if there is none."""
    if parts == 1:
        return None
    divisible = [axis for axis, length in enumerate(shape) if length % parts == 0]
    return max(divisible, key=lambda axis: shape[axis], default=None)


def all_gather(mesh: Mesh, params: Any) -> Any:
    """Makes parameters whole on every device, inside a jitted program.

    A step calls this before it uses them: weights travel, samples stay. Without it the compiler may
    choose to move samples to the shards of the parameters instead.
    """
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def shapes_with_shardings(tree: Any, shardings: Any) -> Any:
    """Returns what a checkpoint needs to restore a tree onto this mesh, whatever mesh has saved it.

    Args:
        tree: arrays, or their shapes.
        shardings: a tree like it.
    """

    def described(array, sharding):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(described, tree, shardings)


# ---------------------------------------------------------------- the samples of a step


@dataclasses.dataclass(frozen=True)
class MeshLayout:
    """Where the samples of a step are on a mesh; the methods are explained in `drifting/layout.py`.

    A step has C classes of N generated samples each, which the field compares with one another and
    with reals of the class. Here the N samples of a class are called its rows. The classes are
    divided over some axes of the mesh and the rows over the others.

    A class whose rows are all on one device needs nothing from other devices. Where rows are
    divided, the feature vectors of a class are gathered, without their gradient, and the sums of
    the softmax over x are reduced over the devices. Images never travel, unless raw pixels are
    the features or the bank is divided, whose reals do.

    Attributes:
        mesh: the mesh of the run.
        class_axes: the axes of the mesh over which classes are divided.
        row_axes: the axes over which the rows of each class are divided.
    """

    mesh: Mesh
    class_axes: tuple[str, ...]
    row_axes: tuple[str, ...]

    def __str__(self) -> str:
        divided = {"classes": self.class_axes, "rows of each class": self.row_axes}
        facts = [f"{name} over {' x '.join(axes)}" for name, axes in divided.items() if axes]
        return ", ".join(facts) or "all on one device"

    @property
    def class_parts(self) -> int:
        """Into how many parts the classes are divided."""
        return math.prod(self.mesh.shape[axis] for axis in self.class_axes)

    @property
    def row_parts(self) -> int:
        """Into how many parts the rows of each class are divided."""
        return math.prod(self.mesh.shape[axis] for axis in self.row_axes)

    @property
    def bank_axes(self) -> tuple[str, ...]:
        """The axes over which a large bank is divided within its samples.

        Each device holds a part of every sample. A step gathers the parts of the samples that it
        draws. Where classes are divided, a device asks the others along these axes for the samples
        of its own classes alone. Where they are not, every device asks for all that is drawn.
        """
        return self.class_axes or ALL_AXES

    @property
    def groups_sharding(self) -> NamedSharding:
        """The sharding of arrays [K, C, ...]: the classes of each group over devices."""
        return NamedSharding(self.mesh, P(None, self.class_axes))

    @property
    def rows_sharding(self) -> NamedSharding:
        """The sharding of arrays [C N, ...] in the order of `merge`."""
        return NamedSharding(self.mesh, P(self.class_axes + self.row_axes))

    def groups(self, tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, self.groups_sharding)

    def classes(self, tree: Any) -> Any:
        return self._constrain(tree, self.class_axes)

    def rows(self, tree: Any) -> Any:
        return self._constrain(tree, self.class_axes + self.row_axes)

    # The device at position i of the class axes and j of the row axes holds a block of [C, N, ...]:
    #
    #             rows j = 0    rows j = 1
    #     i = 0   block 0 0     block 0 1
    #     i = 1   block 1 0     block 1 1
    #
    # Plain reshaping to [C N, ...] would take turns: the rows of class 0 from both blocks, then
    # those of class 1. Most samples would have to leave their device. So `merge` lists all samples
    # of one block, then all of the next. Networks do not mind the order, and `split` undoes it.

    def merge(self, samples: jax.Array) -> jax.Array:
        samples = self._constrain(samples, self.class_axes, self.row_axes)
        i, j = self.class_parts, self.row_parts
        samples = rearrange(samples, "(i c) (j n) ... -> (i j c n) ...", i=i, j=j)
        return self.rows(samples)

    def split(self, samples: jax.Array, classes: int) -> jax.Array:
        i, j = self.class_parts, self.row_parts
        samples = self.rows(samples)
        samples = rearrange(samples, "(i j c n) ... -> (i c) (j n) ...", i=i, j=j, c=classes // i)
        return self._constrain(samples, self.class_axes, self.row_axes)

    def _constrain(self, tree: Any, *axes: tuple[str, ...]) -> Any:
        """Divides the leading axes of arrays over axes of the mesh, inside a jitted program."""
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, P(*axes)))


_OF_SAMPLES: contextvars.ContextVar[NamedSharding | None] = contextvars.ContextVar(
    "of_samples", default=None
)


@contextlib.contextmanager
def samples_divided(sharding: NamedSharding | None) -> Iterator[None]:
    """Makes a sharding known to the code that is traced inside this `with` block.

    It is that of the samples, along their leading axis. A kernel that is written by hand asks for
    it by `sharding_of_samples`, since XLA cannot divide over devices what it did not write
    (models/fused_attention.py). The block has to surround the tracing of a program, not its runs.
    """
    before = _OF_SAMPLES.set(sharding)
    try:
        yield
    finally:
        _OF_SAMPLES.reset(before)


def sharding_of_samples() -> NamedSharding | None:
    """Returns what `samples_divided` says here, if it says anything."""
    return _OF_SAMPLES.get()


def device_of_samples() -> jax.Device:
    """Returns one of the devices that hold the samples.

    It may be a device that is not here, for which a step is planned.
    """
    divided = sharding_of_samples()
    if divided is None:
        return jax.devices()[0]
    return divided.mesh.devices.flat[0]


def choose_layout(mesh: Mesh, classes: int, rows: int) -> MeshLayout | None:
    """Returns the layout that needs the least communication, or None if the numbers do not divide.

    Classes go over all devices if these divide them, or else over one axis of the mesh, or over
    none; the rows go over the rest.

    Args:
        mesh: the mesh of the run.
        classes: in one group of a step.
        rows: generated samples of each class.
    """
    candidates = [
        (("data", "fsdp"), ()),
        (("data",), ("fsdp",)),
        (("fsdp",), ("data",)),
        ((), ("data", "fsdp")),
    ]
    for class_axes, row_axes in candidates:
        layout = MeshLayout(mesh, _of_several(mesh, class_axes), _of_several(mesh, row_axes))
        if classes % layout.class_parts == 0 and rows % layout.row_parts == 0:
            return layout
    return None


def _of_several(mesh: Mesh, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the axes that have more than one device."""
    return tuple(axis for axis in axes if mesh.shape[axis] > 1)


# ---------------------------------------------------------------- new reals


class RowExchange:
    """Joins rows that each process has read by itself into arrays over all devices.

    With R processes, row j of process r becomes row j R + r of the result: the processes take
    turns, as they do in the stream that they read from. So the result does not depend on R.

        process 0 reads   a0 a1 a2            result   a0 b0 a1 b1 a2 b2
        process 1 reads   b0 b1 b2

    On the way the rows are divided over all devices, and `transform` runs on them there.

    Args:
        mesh: the mesh of the run.
        n: rows of each process.
        transform: (params, rows) -> rows; None to leave them as they are.
        params: of `transform`; whole arrays, the same in every process.
        results: the shardings of the joined rows, a tree like them; None: whole on every device.
    Raises:
        UserError: the processes have unlike numbers of devices.
    """

    def __init__(
        self,
        mesh: Mesh,
        n: int,
        transform: Callable[[Any, Any], Any] | None = None,
        params: Any = None,
        results: Any = None,
    ):
        self.mesh = mesh
        self.devices = mesh.local_devices
        self.params = put(params, replicated(mesh))
        results = results or replicated(mesh)

        # Every device gets a block of the same size, so the last blocks of a process are filled up
        # with copies of its last row.
        self.block = math.ceil(n / len(self.devices))  # rows
        self._filled_up = np.minimum(np.arange(self.block * len(self.devices)), n - 1)

        # The blocks of all devices one after another are one array. Rows that fill up are left out
        # when the result is picked from it.
        order = _order_of_result(mesh, n, self.block)

        def transform_and_pick(params, rows):
            if transform:
                rows = transform(params, rows)
            rows = jax.lax.with_sharding_constraint(rows, results)  # they travel once, and here
            return jax.tree.map(lambda array: array[order], rows)

        self._join = jax.jit(transform_and_pick, out_shardings=results)

    def __call__(self, rows: Any) -> Any:
        """Returns arrays [n R, ...] for a tree of NumPy arrays [n, ...].

        All processes must call this. It does not wait for the devices.
        """
        return self._join(self.params, jax.tree.map(self._divide, rows))

    def _divide(self, array: np.ndarray) -> jax.Array:
        """Puts the rows of this process onto its devices, as its part of an array over all."""
        filled_up = array[self._filled_up]
        blocks = rearrange(filled_up, "(d block) ... -> d block ...", d=len(self.devices))
        placed = [
            jax.device_put(block, device)
            for block, device in zip(blocks, self.devices, strict=True)
        ]
        shape = (self.block * self.mesh.size, *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, batch_sharding(self.mesh), placed)


def _order_of_result(mesh: Mesh, n: int, block: int) -> np.ndarray:
    """Returns for each row of the result of a `RowExchange` where it is in the joined blocks.

    The joined rows p * block to (p + 1) * block are those of the device at position p of the mesh.
    If k devices of the same process come before it there, these are the rows k * block to
    (k + 1) * block that the process has read.
    """
    device_processes = [device.process_index for device in mesh.devices.flat]
    processes = sorted(set(device_processes))
    counts = collections.Counter(device_processes)
    if len(set(counts.values())) > 1:
        raise UserError("the processes have unlike numbers of devices; start each with as many")

    order = np.zeros(n * len(processes), np.int32)
    blocks_before = collections.Counter()  # of each process
    for position, process in enumerate(device_processes):
        first = blocks_before[process] * block  # the row of the process that begins this block
        end = min(first + block, n)
        blocks_before[process] += 1
        for row in range(first, end):
            in_result = row * len(processes) + processes.index(process)
            order[in_result] = position * block + (row - first)
    return order


def round_up(n: int, multiple: int) -> int:
    """Returns the least multiple that is not below n."""
    return -(-n // multiple) * multiple
