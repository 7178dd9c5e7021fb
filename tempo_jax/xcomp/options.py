"""The options of one question to XComp, validated, and the frames in its answer."""

import dataclasses
from numbers import Real

from tempo_jax.errors import TempoError
from tempo_jax.runtime.options import DecodeOptions, check_decode_options, check_integer
from tempo_jax.runtime.results import Segment
from tempo_jax.xcomp.frame_selection import GLOBAL, LOCAL, ScoringWindows
from tempo_jax.xcomp.token_compression import VARIANTS

# How frames are scored where they exceed the budget; None: not at all.
SCORERS: dict[str, ScoringWindows | None] = {"local": LOCAL, "global": GLOBAL, "uniform": None}
# shorter videos keep all frames unless a budget is given (docs/reference/xcomp.md#selection)
MIN_SCORED_FRAMES = 1024
DEFAULT_SELECTED_FRAMES = 512  # kept of longer videos


@dataclasses.dataclass(frozen=True)
class Options(DecodeOptions):
    """The per-question arguments of `XComp.ask`, which documents them.

    Raises:
      TempoError: A value is invalid.
    """

    budget: int | None = None
    strategy: str = "local"
    compress: bool = True
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repeats: int = 2
    causal_scoring: bool = True
    query_skip: int | None = None
    repetition_penalty: float = 1.0
    lp_comp: str | None = None

    def __post_init__(self):
        if self.strategy not in SCORERS:
            raise TempoError(
                f"strategy {self.strategy!r} is none of XComp's, which chooses among whole frames: use one "
                f"of {', '.join(SCORERS)}."
            )
        if self.budget is not None:
            check_integer("budget", self.budget, minimum=1)
        check_decode_options(self)
        for name, minimum, value in (("repeats", 1, self.repeats), ("query_skip", 0, self.query_skip or 0)):
            check_integer(name, value, minimum=minimum)
        if self.lp_comp is not None and self.lp_comp not in VARIANTS:
            raise TempoError(f"lp_comp is {self.lp_comp!r}: use one of XComp's, {', '.join(VARIANTS)}.")
        if not isinstance(self.repetition_penalty, Real) or not 0 < self.repetition_penalty <= 1e3:
            raise TempoError(
                f"repetition_penalty is {self.repetition_penalty!r}, but it must be above 0 (1.0 is none)."
            )

    def frame_budget(self, num_frames: int, frame_tokens: int) -> int:
        """Maximum number of frames to keep of `num_frames` sampled ones."""
        if not self.compress:
            return num_frames
        if self.budget is None:
            return DEFAULT_SELECTED_FRAMES if num_frames >= MIN_SCORED_FRAMES else num_frames
        return self.budget // frame_tokens


@dataclasses.dataclass(frozen=True)
class FrameSegment(Segment):
    """One sampled frame; `tokens` is 16 if it was selected and 0 if not.

    Attributes:
      relevance: `score` divided by the highest score of a frame; NaN (JSON: null) where no frames were
        scored.
      frame: Index in the video.
      score: Sum over layers of the mean attention weight from the question to the frame
        (docs/reference/xcomp.md#frame-scores); NaN where no frames were scored.
    """

    frame: int = 0
    score: float = float("nan")
