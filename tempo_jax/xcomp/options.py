"""The options of one question to XComp, validated, and the frames in its answer."""

import dataclasses

from tempo_jax import fields
from tempo_jax.errors import TempoError
from tempo_jax.runtime.options import DecodeOptions, check_decode_options
from tempo_jax.runtime.results import Segment
from tempo_jax.xcomp.frame_selection import GLOBAL, LOCAL, ScoringWindows

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
        for name in ("budget", "query_skip"):
            if getattr(self, name) is not None:
                fields.check(name, getattr(self, name))
        for name in ("repeats", "repetition_penalty"):
            fields.check(name, getattr(self, name))
        check_decode_options(self)
        if self.lp_comp is not None:
            fields.check_choice("lp_comp", self.lp_comp, "xcomp")

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
