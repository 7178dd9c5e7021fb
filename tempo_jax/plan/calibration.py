"""How far plans are off: step times that others measured and published, beside what the planner predicts.

The programs are MaxText's, with the published options: its own `train_compile` compiled each of them with
libtpu 0.0.42.1 for the published slice, and `cost.estimate_cost` read the result. What they took on TPUs over
what is predicted is a ratio per program; a generation's correction is the geometric mean of its ratios, and
the lowest and the highest are its spread. All programs are training steps.
"""

import math
from typing import NamedTuple


class Comparison(NamedTuple):
    """A training program with a published step time.

    Attributes:
      program: The model, and its batch per chip.
      topology: The slice, in the form of `tempo plan --topology`.
      published_seconds: Measured time of a step.
      published: The published number, from which the time follows.
      source: URL of the page that has it.
      date: Date of publication.
      matmul_seconds: Prediction for fusions that contain matmuls.
      other_seconds: Prediction for the other instructions that have an estimate.
      kernel_seconds: Prediction for Pallas kernels, at assumed rates.
      exposed_seconds: Prediction for communication that does not overlap.
    """

    program: str
    topology: str
    published_seconds: float
    published: str
    source: str
    date: str
    matmul_seconds: float
    other_seconds: float
    kernel_seconds: float
    exposed_seconds: float

    @property
    def generation(self) -> str:
        return self.topology.partition(":")[0]

    @property
    def predicted_seconds(self) -> float:
        return self.matmul_seconds + self.other_seconds + self.kernel_seconds + self.exposed_seconds

    @property
    def ratio(self) -> float:
        """Published over predicted time: below 1 where the planner is pessimistic."""
        return self.published_seconds / self.predicted_seconds


_TRILLIUM = (
    "https://github.com/AI-Hypercomputer/tpu-recipes/blob/d95a9dce90314b89c7ffaf753ad782a4076b4ca1/"
    "training/trillium/{}/README.md"
)
_MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/{}"
_V5E = _MAXTEXT.format("e47fa1b5d377ee1043e663f1414024f4d0f12df0/README.md")
_V5P = _MAXTEXT.format("76bd53b0f44caf989c88189afadeb1062f9254f0/MaxText/configs/v5p/README.md")
_TIERING = _MAXTEXT.format("f588ed5788ae62c78e67e4588b663bd2adc509e5/docs/reference/tiering.md")

# All programs are of MaxText tpu-recipes-v0.1.4; those of 16B to 128B have the options of the scripts in its
# commit 76bd53b: parallel blocks with heads of 256, and ReLU. Their published TFLOP/s count attention whole
# on v5e, and half (causal) on v5p, as MaxText did when either table was added.
COMPARISONS = (
    Comparison(
        "Llama 3.1 8B, 3 x 8192 tokens", "v6e:4x4", 3.393, "3.393 s",
        _TRILLIUM.format("Llama3.1-8B-MaxText/v6e-16"), "2025-07-17", 1.717, 0.894, 1.838, 0.000,
    ),
    Comparison(
        "Llama 3.1 70B, 2 x 8192 tokens", "v6e:8x8", 18.688, "18.688 s",
        _TRILLIUM.format("Llama3.1-70B-MaxText/v6e-64"), "2025-07-17", 10.647, 2.599, 6.126, 1.460,
    ),
    Comparison(
        "Llama 2 70B, 4 x 4096 tokens", "v5p:4x8x8", 23.68, "692 tokens/s/device",
        _TIERING, "2025-10-29", 21.726, 0.853, 2.632, 0.471,
    ),
    Comparison(
        "32B, 8 x 2048 tokens, tensor 4", "v5p:4x4x4", 9.916, "328 TFLOP/s",
        _V5P, "2023-12-15", 9.421, 1.232, 0.585, 0.595,
    ),
    Comparison(
        "16B, 6 x 2048 tokens", "v5e:16x16", 10.66, "120 TFLOP/s",
        _V5E, "2023-11-01", 8.921, 1.554, 1.051, 0.334,
    ),
    Comparison(
        "32B, 4 x 2048 tokens", "v5e:16x16", 12.52, "132 TFLOP/s",
        _V5E, "2023-11-01", 12.105, 0.746, 0.701, 0.662,
    ),
    Comparison(
        "64B, 2 x 2048 tokens", "v5e:16x16", 13.94, "118 TFLOP/s",
        _V5E, "2023-11-01", 10.549, 1.023, 0.701, 1.311,
    ),
    Comparison(
        "128B, 1 x 2048 tokens, tensor 16", "v5e:16x16", 14.91, "110 TFLOP/s",
        _V5E, "2023-11-01", 18.503, 5.988, 0.701, 0.132,
    ),
)  # fmt: skip


class Correction(NamedTuple):
    """What predicted times of a generation's training steps are to be multiplied by.

    Attributes:
      ratio: Geometric mean of published over predicted times.
      lowest: The lowest of them.
      highest: The highest of them.
      programs: Number of programs.
    """

    ratio: float
    lowest: float
    highest: float
    programs: int


def correction(generation: str) -> Correction | None:
    """The correction of a generation; None where no published program of it was compared."""
    ratios = [comparison.ratio for comparison in COMPARISONS if comparison.generation == generation]
    if not ratios:
        return None
    mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    return Correction(mean, min(ratios), max(ratios), len(ratios))
