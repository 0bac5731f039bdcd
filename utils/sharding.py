"""Where arrays live on the devices: one mesh (data, fsdp), and the specs of the state, the bank and the batch."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import numpy as np

from utils.errors import UserError

MIN_SHARDED_SIZE = 2**14  # smaller parameters are not worth a collective of their own


def make_mesh(n_devices: int, fsdp: int) -> Mesh:
    """Mesh (data, fsdp) over the first n_devices devices (0 = all); samples are spread over both axes, parameters over fsdp."""
    devices = jax.devices()
    n_devices = n_devices or len(devices)
    if not 1 <= n_devices <= len(devices):
        raise UserError(f"--mesh.devices {n_devices}: there are {len(devices)} devices; give 1 to {len(devices)}, or 0 for all.")
    if n_devices != len(devices) and jax.process_count() > 1:
        raise UserError(f"--mesh.devices {n_devices}: a job of {jax.process_count()} processes uses all of its {len(devices)} devices; leave it out, or start fewer processes.")
    return mesh_of(devices[:n_devices], fsdp)


def mesh_of(devices, fsdp: int) -> Mesh:
    """The same over given devices, which may be the description of some that are not here."""
    if len(devices) % fsdp:
        raise UserError(f"--mesh.fsdp {fsdp}: it must divide the number of devices, {len(devices)}.")
    return Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def put(tree, where: NamedSharding):
    """Arrays that every process holds whole, the same in each, as arrays of the mesh; each process copies what its devices hold."""
    if where.is_fully_addressable:
        return jax.device_put(tree, where)

    def one(a):
        a = np.asarray(a)
        return jax.make_array_from_callback(a.shape, where, lambda index: a[index])

    return jax.tree.map(one, tree)


def local(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices of this process, for work that it does alone."""
    return NamedSharding(Mesh(np.array(mesh.local_devices), ("samples",)), P("samples"))


def local_copy(mesh: Mesh, tree):
    """The whole arrays on every device of this process, for work that it does alone. All processes must call it."""
    if jax.process_count() == 1:
        return tree
    alone = NamedSharding(local(mesh).mesh, P())
    whole = jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda a: jax.make_array_from_single_device_arrays(a.shape, alone, [s.data for s in a.addressable_shards]), whole)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis (classes, samples) over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def place_batch(mesh: Mesh):
    """A function that puts a batch's leading axis over all devices, inside a jitted program: a class's samples then meet on one device."""
    return lambda batch: jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def gather(mesh: Mesh, params):
    """The whole parameters on every device, inside a jitted program; without it the compiler may move samples to the shards instead."""
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def state_shardings(mesh: Mesh, state):
    """A tree like `state` (arrays or shapes): each large array is split over fsdp along its largest axis that fsdp divides; the rest is replicated."""
    n = mesh.shape["fsdp"]

    def spec(a):
        axes = [i for i in sorted(range(len(a.shape)), key=lambda i: -a.shape[i]) if a.shape[i] % n == 0]
        if n == 1 or not axes or np.prod(a.shape) < MIN_SHARDED_SIZE:
            return replicated(mesh)
        return NamedSharding(mesh, P(*(None,) * axes[0], "fsdp"))

    return jax.tree.map(spec, state)


def shapes(tree, shardings):
    """ShapeDtypeStructs of a tree with the given shardings, for restoring a checkpoint onto this mesh."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)
