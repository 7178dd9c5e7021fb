"""The TPU generations as a table: what the planner knows of each and where it is from.

Peaks, bandwidths: cloud.google.com/tpu/docs and the scaling book's table of TPUs. Clocks are those at
which the matrix units' FLOP per cycle make the peak. Usable HBM and the matmul ceiling are what libtpu
itself says (compiled for each chip with libtpu 0.0.42.1).
"""

import dataclasses

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a generation: a chip, but for v7x, where it is half of one."""

    name: str
    topology: str  # libtpu's name of the generation
    torus_dims: int  # of the torus: 2 or 3
    peak: float  # FLOP/s, bfloat16, dense
    clock: float  # Hz
    matmul_per_cycle: float  # FLOP of an 8192^3 bfloat16 matmul per cycle, the compiler's own estimate
    mxu_size: int  # its side
    hbm: float  # bytes the compiler may use
    hbm_bandwidth: float  # bytes/s
    ici_bandwidth: float  # bytes/s of an inter-chip link, one way
    wraparound_min: int  # chips of an axis from which on it closes to a ring
    dcn_bandwidth: float  # bytes/s between slices, per device: a host's network shared by its devices
    per_chip: int = 1  # JAX devices
    options: tuple[tuple[str, str], ...] = ()  # of the topology

    @property
    def matmul_efficiency(self) -> float:
        """Share of the peak that the compiler expects of its best matmul."""
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

# Pallas kernels carry no estimate. Splash attention is costed at this share of the matmul ceiling, times
# the part of a matrix unit's side that the head dimension fills. An assumption, to be replaced by a
# measurement: published recipes for these kernels give no table of it (facts/anchors.md D.2).
KERNEL_EFFICIENCY = 0.5

# Kernels that only move and scale arrays are costed by their bytes, at this share of the HBM bandwidth: what
# XLA expects of its own elementwise fusions of 200 MB (v5p 36%, v7x 38%, v4 39%, v6e 40%, v5e 41%).
COPY_BANDWIDTH_FRACTION = 0.36

# The kernel that reads caches likewise, at what XLA expects of its own product of two rows with 194 MB of
# weights (v5p 58%, v7x 67%, v5e and v4 71%, v6e 82%).
CACHE_READ_BANDWIDTH_FRACTION = 0.58

# However little a kernel does: what XLA expects of its own smallest fusion.
LAUNCH_CYCLES = 1826
