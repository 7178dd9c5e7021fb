"""TPU slices: chip generations with their peaks and bandwidths, and compile-only devices of a topology.

libtpu compiles for a topology on a host that has no TPU.

Peaks and bandwidths are from cloud.google.com/tpu/docs and the scaling book's table of TPUs. Clocks follow
from the peak and the matrix units' FLOPs per cycle. Usable HBM and the cycles of a matmul are libtpu's own
(compiled for each chip with libtpu 0.0.42.1).
"""

import dataclasses
import math
import os
import re
from typing import NamedTuple

from tempo_jax.errors import TempoError

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a generation: a chip, or half of one for v7x.

    Attributes:
      name: Google's name.
      topology: libtpu's name of the generation.
      torus_dims: Dimensions of the torus: 2 or 3.
      peak: FLOP/s, bfloat16, dense.
      clock: Hz.
      matmul_per_cycle: FLOPs per cycle of an 8192^3 bfloat16 matmul, by the compiler's own estimate.
      mxu_size: Side of the matrix unit.
      hbm: Bytes of HBM that the compiler may use.
      hbm_bandwidth: Bytes/s.
      ici_bandwidth: Bytes/s of an inter-chip link, in one direction.
      wraparound_min: Minimum chips of an axis that closes to a ring.
      dcn_bandwidth: Bytes/s between slices, per device: a host's network is shared by its devices.
      host_bandwidth: Bytes/s between a device and its host's memory (PCIe), in one direction; on v7x assumed.
      per_chip: JAX devices of a chip.
      options: Options of the topology.
    """

    name: str
    topology: str
    torus_dims: int
    peak: float
    clock: float
    matmul_per_cycle: float
    mxu_size: int
    hbm: float
    hbm_bandwidth: float
    ici_bandwidth: float
    wraparound_min: int
    dcn_bandwidth: float
    host_bandwidth: float
    per_chip: int = 1
    options: tuple[tuple[str, str], ...] = ()

    @property
    def matmul_efficiency(self) -> float:
        """Fraction of the peak that the compiler expects of its best matmul."""
        return self.matmul_per_cycle * self.clock / self.peak

    def seconds(self, cycles: float) -> float:
        return cycles / self.clock


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", "v4", 3, 275e12, 1.05e9, 243_057, 128, 30.75 * GIB, 1228 * GB, 45 * GB, 4, 6.25 * GB,
             15 * GB, options=(("chip_config_name", "megacore"),)),
        Chip("v5e", "v5e", 2, 197e12, 1.5e9, 115_044, 128, 15.75 * GIB, 819 * GB, 50 * GB, 16, 3.125 * GB,
             15 * GB),
        Chip("v5p", "v5", 3, 459e12, 1.75e9, 236_349, 128, 95.74 * GIB, 2765 * GB, 100 * GB, 4, 6.25 * GB,
             15 * GB),
        Chip("v6e", "v6e", 2, 918e12, 1.75e9, 369_231, 256, 31.25 * GIB, 1638 * GB, 100 * GB, 16, 3.125 * GB,
             32 * GB),
        Chip("v7x", "tpu7x", 3, 1153.5e12, 2.2e9, 422_142, 256, 94.75 * GIB, 3690 * GB, 100 * GB, 4,
             6.25 * GB, 32 * GB, per_chip=2),
    )
}  # fmt: skip

# XLA has no estimate of Pallas kernels. FLOPs of attention kernels are assumed to run at this fraction of the
# best matmul, times the fraction of a matrix unit's side that the head dimension fills; to be replaced by a
# measurement.
KERNEL_EFFICIENCY = 0.5

# Kernels that only move and scale arrays are assumed to reach this fraction of the HBM bandwidth: what XLA
# expects of its own elementwise fusions of 200 MB (v5p 36%, v7x 38%, v4 39%, v6e 40%, v5e 41%).
COPY_BANDWIDTH_FRACTION = 0.36

# The kernel that reads KV caches likewise: what XLA expects of its own matmul of two rows with 194 MB of
# weights (v5p 58%, v7x 67%, v5e and v4 71%, v6e 82%).
CACHE_READ_BANDWIDTH_FRACTION = 0.58

# Minimum of a kernel: what XLA expects of its own smallest fusion.
LAUNCH_CYCLES = 1826


# What libtpu needs to load on a host without TPUs: without the first two it queries a metadata server; the
# fifth lets several processes compile at once.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
MISSING = (
    'planning needs libtpu, the TPU compiler, which is not installed: pip install -e ".[plan]" in the clone '
    "(it runs on any Linux x86-64 host; no TPU is needed)"
)


class Topology(NamedTuple):
    """A TPU slice, or several equal ones, such as `v5p:4x4x4`."""

    chip: Chip
    shape: tuple[int, ...]  # chips along each axis
    slices: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        return self.chips * self.chip.per_chip

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"{self.chip.name}:{shape}" + (f" x {self.slices} slices" if self.slices > 1 else "")


def parse(text: str, slices: int = 1) -> Topology:
    """Parses `NAME:AxB` or `NAME:AxBxC`.

    Raises:
      TempoError: The text names no topology.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
    if not match or match[1] not in CHIPS:
        raise TempoError(
            f"{text!r} is no topology: give a chip of {', '.join(CHIPS)} and its axes, as in v5p:4x4x4"
        )
    chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
    if len(shape) != chip.torus_dims or min(shape) < 1:
        raise TempoError(f"{text!r} has {len(shape)} axes, but a slice of {chip.name} has {chip.torus_dims}")
    if slices < 1:
        raise TempoError(f"{slices} slices make no topology: give at least 1")
    return Topology(chip, shape, slices)


def prepare() -> None:
    """Sets environment variables; must run before jax makes its first TPU topology."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # leaves the user's accelerator alone


def available() -> bool:
    """Whether libtpu is installed."""
    from importlib.util import find_spec

    return find_spec("libtpu") is not None


def devices(topology: Topology) -> list:
    """Compile-only jax devices of a topology.

    Raises:
      TempoError: libtpu is not installed, or the generation has no such slice.
    """
    prepare()
    if not available():
        raise TempoError(MISSING)
    from jax.experimental import topologies

    chip, shape = topology.chip, topology.shape
    padded = (*shape, 1, 1)[:3]
    # Chips of a host along each axis: those of the generation's hosts, fewer where the slice is smaller.
    bounds = tuple(min(size, maximum) for size, maximum in zip(padded, (2, 2, 1), strict=True))
    options = dict(chip.options) | {"chips_per_host_bounds": bounds}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    name = f"{chip.topology}:{'x'.join(map(str, shape))}"
    try:
        tpu_devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # libtpu raises various types for a slice that it does not know
        reason = str(error).splitlines()[0][:200]
        raise TempoError(
            f"libtpu has no topology {topology} ({reason}): choose a slice that exists"
        ) from error
    return list(tpu_devices)
