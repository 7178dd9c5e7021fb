"""Compile-only TPU devices: libtpu compiles for a topology on a host that has no TPU."""

import math
import os
import re
from typing import NamedTuple

from tempo_jax.errors import TempoError
from tempo_jax.plan.chips import CHIPS, Chip

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
