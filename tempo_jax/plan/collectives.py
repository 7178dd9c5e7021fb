"""Collectives: their bytes, the mesh axes they span, and their modeled time on the torus."""

import math
import re
from typing import NamedTuple

import numpy as np

from tempo_jax.plan.hlo import Instruction, array_bytes, nbytes, shapes
from tempo_jax.plan.topology import Chip

# Collective -> bytes through a chip, from bytes of its result and group size, with a ring algorithm; a
# permutation sends its operand once.
TRAFFIC = {
    "all-gather": lambda out, size: out * (size - 1) / size,
    "all-reduce": lambda out, size: 2 * out * (size - 1) / size,
    "reduce-scatter": lambda out, size: out * (size - 1),
    "all-to-all": lambda out, size: out * (size - 1) / size,
    "collective-permute": lambda out, size: out,
    "ragged-all-to-all": lambda out, size: out * (size - 1) / size,
}
# Groups along axes of a mesh, as XLA prints them: sizes, order of the devices, axes.
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_HOST_MEMORY = "S(5)"
# From chip to chip, however small the message: about that, says the scaling book.
HOP_LATENCY_SECONDS = 1e-6


class Collective(NamedTuple):
    """A collective of a program, or a transfer between a device and its host."""

    kind: str  # a key of TRAFFIC, or "host transfer"
    axes: tuple[str, ...]  # of the mesh
    bytes: float  # through one chip, in all executions
    seconds: float
    asynchronous: bool  # whether the compiler may overlap it with computation
    count: float  # executions
    source: str  # operation of our program


def kind_of(instruction: Instruction) -> str | None:
    """A key of TRAFFIC; None for other instructions, and for the end of an asynchronous collective."""
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.rest)
    if transfer:  # between slices, by way of the hosts; printed once per direction
        return transfer[1].lower().replace("_", "-") if instruction.op == "send" else None
    base = instruction.op.removesuffix("-start")
    return base if base in TRAFFIC else None


def estimate_collective(
    instruction: Instruction, mesh, chip: Chip, trips: float, asynchronous: bool
) -> Collective:
    """The collective of an instruction that runs `trips` times. mesh: a Mesh of topology devices."""
    kind = kind_of(instruction)
    devices = mesh.devices.flatten()
    between_slices = instruction.op == "send"
    group = _one_of_each_slice(devices) if between_slices else _group(instruction.rest, len(devices))
    index = np.unravel_index(group, mesh.devices.shape)
    axes = tuple(
        name for name, places in zip(mesh.axis_names, index, strict=True) if len(set(places.tolist())) > 1
    )
    size = len(group)
    traffic = TRAFFIC.get(kind, TRAFFIC["all-gather"])(_result(instruction), size) if size > 1 else 0.0
    members = [devices[i] for i in group]
    bandwidth = _bandwidth(members, devices, chip, ring=kind != "collective-permute")
    seconds = traffic / bandwidth + HOP_LATENCY_SECONDS * _hops(kind, members, devices, chip)
    return Collective(
        kind,
        axes,
        traffic * trips,
        seconds * trips,
        asynchronous or between_slices,
        trips,
        instruction.op_name,
    )


def estimate_host_transfer(instruction: Instruction, chip: Chip, trips: float) -> Collective | None:
    """A copy between a device and its host's memory; None for any other instruction.

    It is the start of a copy, or of a slice that is read from or written to a larger array on the host, whose
    printed layout has memory space 5.
    """
    if instruction.op not in ("copy-start", "async-start") or _HOST_MEMORY not in instruction.shape:
        return None
    moved = min(array_bytes(dtype, size) for dtype, size in shapes(instruction.shape) if size)
    seconds = trips * moved / chip.host_bandwidth
    return Collective("host transfer", (), trips * moved, seconds, True, trips, instruction.op_name)


def _result(instruction: Instruction) -> float:
    """Bytes of the result; the start of an asynchronous collective also returns its operand and counters."""
    if instruction.op == "send":
        name, sizes = shapes(instruction.shape)[0]
        return nbytes(f"{name}[{','.join(map(str, sizes))}]")
    if not instruction.op.endswith("-start"):
        return instruction.bytes
    arrays = [part for part in shapes(instruction.shape) if part[1]]
    kind = kind_of(instruction)
    if kind == "all-reduce":
        return instruction.bytes
    sizes = [nbytes(f"{name}[{','.join(map(str, dims))}]") for name, dims in arrays]
    return min(sizes) if kind == "reduce-scatter" else max(sizes, default=0.0)


def _one_of_each_slice(devices) -> list[int]:
    first: dict[int, int] = {}
    for index, device in enumerate(devices):
        first.setdefault(device.slice_index, index)
    return list(first.values())


def _group(text: str, devices: int) -> list[int]:
    """The first group of devices of a collective; of a permutation, the first pair."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text)
    if pairs:
        return sorted({int(pairs[1]), int(pairs[2])})
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return [int(x) for x in listed[1].split(",")]
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        order = np.arange(devices).reshape([int(x) for x in iota[3].split(",")])
        if iota[4]:
            order = order.transpose([int(x) for x in iota[4].split(",")])
        return order.reshape(int(iota[1]), int(iota[2]))[0].tolist()
    mesh = _MESH.search(text)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        order = np.arange(devices)
        if mesh[2]:
            order = order.reshape([int(x) for x in mesh[2].split(",")])
        if mesh[3]:
            order = order.transpose([int(x) for x in mesh[3].split(",")])
        along = re.findall(r"'(\w+)'", mesh[4])
        last = [list(sizes).index(name) for name in along]
        order = np.moveaxis(order.reshape(list(sizes.values())), last, range(-len(last), 0))
        return order.reshape(-1, math.prod(sizes[name] for name in along))[0].tolist()
    return list(range(devices))  # no groups: all devices


def _hops(kind: str, members: list, devices: list, chip: Chip) -> int:
    """Number of hops of a message: half of a ring, or all of a line; twice that for an all-reduce."""
    if len(members) < 2 or "permute" in kind:
        return len(members) - 1
    hops = 0
    for axis in range(3):
        length = len({device.coords[axis] for device in members})
        ring = len({device.coords[axis] for device in devices}) >= chip.wraparound_min
        hops += length // 2 if ring else length - 1
    return max(hops, 1) * (2 if kind == "all-reduce" else 1)


def _bandwidth(members: list, devices: list, chip: Chip, ring: bool) -> float:
    """Bytes/s through one chip: both directions of every torus axis that the group extends along.

    An axis shorter than chip.wraparound_min is no ring and counts half; a permutation uses one link in one
    direction. Groups across slices are limited by the data-center network. The two devices of a v7x chip
    count as connected by a link.
    """
    if len({getattr(device, "slice_index", 0) for device in members}) > 1:
        return chip.dcn_bandwidth
    along = [axis for axis in range(3) if len({device.coords[axis] for device in members}) > 1]
    if not ring or not along:
        return chip.ici_bandwidth
    lengths = [len({device.coords[axis] for device in devices}) for axis in along]
    return math.fsum(chip.ici_bandwidth * (2 if length >= chip.wraparound_min else 1) for length in lengths)
