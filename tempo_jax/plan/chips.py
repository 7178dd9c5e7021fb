"""TPU generations: peak FLOP/s, HBM, and interconnect.

Peaks and bandwidths are from cloud.google.com/tpu/docs and the scaling book's table of TPUs. Clocks follow
from the peak and the matrix units' FLOPs per cycle. Usable HBM and the cycles of a matmul are libtpu's own
(compiled for each chip with libtpu 0.0.42.1).
"""

import dataclasses

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
             options=(("chip_config_name", "megacore"),)),
        Chip("v5e", "v5e", 2, 197e12, 1.5e9, 115_044, 128, 15.75 * GIB, 819 * GB, 50 * GB, 16, 3.125 * GB),
        Chip("v5p", "v5", 3, 459e12, 1.75e9, 236_349, 128, 95.74 * GIB, 2765 * GB, 100 * GB, 4, 6.25 * GB),
        Chip("v6e", "v6e", 2, 918e12, 1.75e9, 369_231, 256, 31.25 * GIB, 1638 * GB, 100 * GB, 16, 3.125 * GB),
        Chip("v7x", "tpu7x", 3, 1153.5e12, 2.2e9, 422_142, 256, 94.75 * GIB, 3690 * GB, 100 * GB, 4,
             6.25 * GB, per_chip=2),
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
