"""What may be asked of one question about a video, checked, and what its answer says of each frame."""

import dataclasses

from tempo_jax import fields
from tempo_jax.errors import TempoError
from tempo_jax.runtime.options import Greedy, check_answer
from tempo_jax.runtime.results import Segment
from tempo_jax.xcomp.frame_selection import GLOBAL, LOCAL, Windows

# How frames are chosen where they are more than the budget holds.
SCORERS: dict[str, Windows | None] = {"local": LOCAL, "global": GLOBAL, "uniform": None}
SCORED_FROM = 1024  # frames; shorter videos are kept whole unless a budget is given (xcomp §3.1)
DEFAULT_FRAMES = 512  # that stay of longer ones


@dataclasses.dataclass(frozen=True)
class Options(Greedy):
    """The per-question arguments of `XComp.ask`; TempoError for values that make no sense.

    lp_comp: a name in token_compression.VARIANTS; None: as model.json has it.
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
        check_answer(self)
        if self.lp_comp is not None:
            fields.check_choice("lp_comp", self.lp_comp, "xcomp")

    def frames(self, sampled: int, per_frame: int) -> int:
        """How many of the sampled frames may stay."""
        if not self.compress:
            return sampled
        if self.budget is None:
            return DEFAULT_FRAMES if sampled >= SCORED_FROM else sampled
        return self.budget // per_frame


@dataclasses.dataclass(frozen=True)
class FrameSegment(Segment):
    """One sampled frame: `tokens` are 16 where it was kept and 0 where not.

    relevance: score as a share of the best frame's; like `score`, the sum over layers of the mean attention
    that the question pays the frame (xcomp §3.4), it is NaN (JSON: null) where nothing had to be chosen.
    """

    frame: int = 0  # number in the video
    score: float = float("nan")
