"""What may be asked of one question, checked."""

import dataclasses

from tempo_jax import fields
from tempo_jax.ata import KEEP_STRATEGIES, PRUNE_MODES
from tempo_jax.runtime.options import Greedy, check_answer

FLOOR = 4  # memory tokens a segment keeps at least (facts §3.2)
PRUNING = {f"prune-{mode}": mode for mode in PRUNE_MODES}  # ablations: segments kept whole or dropped
STRATEGIES = (*KEEP_STRATEGIES, "uniform", *PRUNING)
LP_COMP = ("none", "suffix", "prefix")


@dataclasses.dataclass(frozen=True)
class Options(Greedy):
    """The per-question arguments of `Tempo.ask`; TempoError for values that make no sense.

    For ablations, min_tokens and max_tokens (0: all that the model has) bound what a segment keeps, and
    the strategies prune-topk, prune-lastk and prune-random drop the share `drop_ratio` of the segments
    (the least relevant, the most relevant, any) and keep the others whole, whatever the budget. lp_comp, one
    of LP_COMP: which memory tokens of a segment the LLM still sees as its layers delete the others
    (hybrid/lp_comp_for_tempo.py).
    """

    budget: int = 8192
    strategy: str = "head"
    compress: bool = True
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    min_tokens: int = FLOOR
    max_tokens: int = 0
    drop_ratio: float = 0.5
    lp_comp: str = "none"

    def __post_init__(self):
        for name in ("budget", "min_tokens", "max_tokens", "drop_ratio"):
            fields.check(name, getattr(self, name))
        for name in ("strategy", "lp_comp"):
            fields.check_choice(name, getattr(self, name), "tempo")
        check_answer(self)

    @property
    def allocates(self) -> bool:
        """Whether the budget is what decides."""
        return self.compress and self.strategy not in PRUNING

    def limits(self, memory_tokens: int) -> tuple[int, int]:
        """The fewest and the most tokens of a segment, of a model that has `memory_tokens`."""
        most = min(self.max_tokens or memory_tokens, memory_tokens)
        return min(self.min_tokens, most), most
