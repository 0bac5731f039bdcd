"""Where arrays live on the devices: one mesh (data, fsdp), and the specs of the state, the bank and the batch."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from utils.errors import UserError

MIN_SHARDED_SIZE = 2**14  # smaller parameters are not worth a collective of their own


def make_mesh(n_devices: int, fsdp: int) -> Mesh:
    """Mesh (data, fsdp) over the first n_devices devices (0 = all); samples are spread over both axes, parameters over fsdp."""
    devices = jax.devices()
    n_devices = n_devices or len(devices)
    if not 1 <= n_devices <= len(devices):
        raise UserError(
            f"--mesh.devices {n_devices}: there are {len(devices)} devices; give 1 to {len(devices)}, or 0 for all."
        )
    if n_devices != len(devices) and jax.process_count() > 1:
        raise UserError(
            f"--mesh.devices {n_devices}: a job of {jax.process_count()} processes uses all of its {len(devices)} devices; leave it out, or start fewer processes."
        )
    return mesh_from_devices(devices[:n_devices], fsdp)


def mesh_from_devices(devices, fsdp: int) -> Mesh:
    """The same over given devices, which may be the description of some that are not here."""
    if len(devices) % fsdp:
        raise UserError(
            f"--mesh.fsdp {fsdp}: it must divide the number of devices, {len(devices)}."
        )
    return Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def put(tree, where: NamedSharding):
    """Arrays that every process holds whole, the same in each, as arrays of the mesh; each process copies what its devices hold."""
    if where.is_fully_addressable:
        return jax.device_put(tree, where)

    def one(a):
        a = np.asarray(a)
        parts = [
            jax.device_put(a[index], device)
            for device, index in where.addressable_devices_indices_map(a.shape).items()
        ]
        return jax.make_array_from_single_device_arrays(a.shape, where, parts)

    return jax.tree.map(one, tree)


def local_sharding(mesh: Mesh | None = None) -> NamedSharding:
    """The leading axis over the devices of this process, for work that it does alone; None: over all of them."""
    mesh = mesh or make_mesh(0, 1)
    return NamedSharding(Mesh(np.array(mesh.local_devices), ("samples",)), P("samples"))


def local_copy(mesh: Mesh, tree):
    """The whole arrays on every device of this process, for work that it does alone. All processes must call it."""
    if jax.process_count() == 1:
        return tree
    alone = NamedSharding(local_sharding(mesh).mesh, P())
    whole = jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(
        lambda a: jax.make_array_from_single_device_arrays(
            a.shape, alone, [s.data for s in a.addressable_shards]
        ),
        whole,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis (classes, samples) over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the samples [classes, rows] of a step are on a mesh: classes over some of its axes, rows over the others. The methods are those of `drifting.place`.

    A class whose samples are on one device needs no other; one whose rows are spread has its feature vectors gathered, without gradient, and its softmax over x reduced.
    """

    mesh: Mesh
    class_axes: tuple[str, ...]
    row_axes: tuple[str, ...]

    def __str__(self):
        places = {"classes": self.class_axes, "rows of each class": self.row_axes}
        return (
            ", ".join(f"{name} over {' x '.join(axes)}" for name, axes in places.items() if axes)
            or "all on one device"
        )

    def _put(self, tree, *spec):
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, P(*spec)))

    @property
    def of_groups(self) -> NamedSharding:
        """Of a tree of [K, C, ...]: each group's classes over the devices."""
        return NamedSharding(self.mesh, P(None, self.class_axes))

    def groups(self, tree):
        return jax.lax.with_sharding_constraint(tree, self.of_groups)

    def classes(self, tree):
        return self._put(tree, self.class_axes)

    def rows(self, tree):
        return self._put(tree, self.class_axes + self.row_axes)

    def _ways(self):
        return tuple(
            int(np.prod([self.mesh.shape[name] for name in axes]))
            for axes in (self.class_axes, self.row_axes)
        )

    def merge(self, a):
        (i, j), (c, n) = self._ways(), a.shape[:2]
        a = self._put(a, self.class_axes, self.row_axes)
        a = a.reshape(i, c // i, j, n // j, *a.shape[2:]).swapaxes(
            1, 2
        )  # what is on one device becomes contiguous
        return self.rows(a.reshape(c * n, *a.shape[4:]))

    def split(self, a, classes):
        i, j = self._ways()
        a = self.rows(a).reshape(i, j, classes // i, -1, *a.shape[1:]).swapaxes(1, 2)
        return self._put(a.reshape(classes, -1, *a.shape[4:]), self.class_axes, self.row_axes)


def choose_layout(mesh: Mesh, classes: int, rows: int) -> Layout | None:
    """Classes over all devices if they divide, or else over one axis of the mesh, or none, and the rows (generated samples of a class) over the rest; None if neither divides."""
    for class_axes, row_axes in (
        (("data", "fsdp"), ()),
        (("data",), ("fsdp",)),
        (("fsdp",), ("data",)),
        ((), ("data", "fsdp")),
    ):
        candidate = Layout(
            mesh,
            *(
                tuple(name for name in axes if mesh.shape[name] > 1)
                for axes in (class_axes, row_axes)
            ),
        )
        i, j = candidate._ways()
        if classes % i == 0 and rows % j == 0:
            return candidate
    return None


class RowExchange:
    """Joins n rows that each process has read by itself: row j of process r of R becomes row j R + r of arrays that every device holds.

    each: (params, rows) -> rows, run before that on the devices, which have the rows divided among them. Raises UserError when the processes have unlike numbers of devices.
    """

    def __init__(self, mesh: Mesh, n: int, each=lambda params, rows: rows, params=None):
        self.mesh, self.params = mesh, put(params, replicated(mesh))
        self.devices = mesh.local_devices
        self.block = -(-n // len(self.devices))  # rows per device; the last are filled up
        ranks, seen = mesh.size // len(self.devices), {}
        order = np.zeros(n * ranks, np.int32)
        for i, device in enumerate(mesh.devices.flat):
            k = seen[device.process_index] = seen.get(device.process_index, -1) + 1
            for j in range(k * self.block, min((k + 1) * self.block, n)):
                order[
                    j * ranks
                    + sorted({d.process_index for d in mesh.devices.flat}).index(
                        device.process_index
                    )
                ] = i * self.block + j - k * self.block
        if len(set(seen.values())) > 1:
            raise UserError("the processes have unlike numbers of devices; start each with as many")
        self._pick = np.minimum(np.arange(self.block * len(self.devices)), n - 1)
        self._join = jax.jit(
            lambda params, rows: jax.tree.map(lambda a: a[order], each(params, rows)),
            out_shardings=replicated(mesh),
        )

    def __call__(self, rows):
        """A tree of NumPy arrays [n, ...] -> arrays [n R, ...], without waiting for the devices."""
        return self._join(self.params, jax.tree.map(self._spread, rows))

    def _spread(self, a):
        blocks = a[self._pick].reshape(len(self.devices), self.block, *a.shape[1:])
        placed = [jax.device_put(block, device) for block, device in zip(blocks, self.devices)]
        return jax.make_array_from_single_device_arrays(
            (self.block * self.mesh.size, *a.shape[1:]), batch_sharding(self.mesh), placed
        )


def all_gather(mesh: Mesh, params):
    """The whole parameters on every device, inside a jitted program; without it the compiler may move samples to the shards instead."""
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def state_shardings(mesh: Mesh, state):
    """A tree like `state` (arrays or shapes): each large array is split over fsdp along its largest axis that fsdp divides; the rest is replicated."""
    n = mesh.shape["fsdp"]

    def spec(a):
        axes = [
            i for i in sorted(range(len(a.shape)), key=lambda i: -a.shape[i]) if a.shape[i] % n == 0
        ]
        if n == 1 or not axes or np.prod(a.shape) < MIN_SHARDED_SIZE:
            return replicated(mesh)
        return NamedSharding(mesh, P(*(None,) * axes[0], "fsdp"))

    return jax.tree.map(spec, state)


def shapes_with_shardings(tree, shardings):
    """ShapeDtypeStructs of a tree with the given shardings, for restoring a checkpoint onto this mesh."""
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings
    )
