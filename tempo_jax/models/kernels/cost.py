"""What a Pallas kernel costs, for the planner: XLA has no estimate of a kernel's time.

Each kernel's module has its NAME, by which XLA's printed programs mention it, and a function `cost`; the
table that the planner looks them up in is `plan.cost.KERNELS`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class KernelArray(NamedTuple):
    """An operand or a result of a kernel in a printed program."""

    dtype: str  # XLA's name, such as "bf16"
    shape: tuple[int, ...]
    nbytes: float  # padding not counted


class KernelCost(NamedTuple):
    """Work of one run of a kernel; its time is the sum of the times of the three kinds of work."""

    flops: float
    head_dim: int  # a head narrower than the matrix unit leaves part of it idle
    copied_bytes: float = 0.0  # read and written by kernels that compute next to nothing
    cache_bytes: float = 0.0  # read by kernels that read far more than they write


# (instruction name, operands, results) -> cost; None where the arrays are not those of this kernel.
CostFunction = Callable[[str, Sequence[KernelArray], Sequence[KernelArray]], KernelCost | None]
