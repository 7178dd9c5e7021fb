"""The options of one question to Tempo, validated."""

import dataclasses

from tempo_jax import fields
from tempo_jax.ata import KEEP_STRATEGIES, PRUNE_MODES
from tempo_jax.runtime.options import DecodeOptions, check_decode_options

MIN_TOKENS = 4  # memory tokens that a segment keeps by default (docs/reference/tempo.md#allocation)
PRUNE_STRATEGIES = {
    f"prune-{mode}": mode for mode in PRUNE_MODES
}  # ablations: whole segments kept or dropped
STRATEGIES = (*KEEP_STRATEGIES, "uniform", *PRUNE_STRATEGIES)
LP_COMP = ("none", "suffix", "prefix")


@dataclasses.dataclass(frozen=True)
class Options(DecodeOptions):
    """The per-question arguments of `Tempo.ask`, which documents those that it has.

    Attributes:
      min_tokens: Minimum number of memory tokens of a segment.
      max_tokens: Maximum number of memory tokens of a segment; 0: all that the model has.
      drop_ratio: Fraction of segments that the strategies prune-topk (the least relevant), prune-lastk (the
        most relevant) and prune-random drop; the others are kept whole, whatever the budget.
      lp_comp: Which memory tokens of a segment remain as the LLM's layers drop the others, a name in LP_COMP
        (hybrid/lp_comp_for_tempo.py).

    Raises:
      TempoError: A value is invalid.
    """

    budget: int = 8192
    strategy: str = "head"
    compress: bool = True
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    min_tokens: int = MIN_TOKENS
    max_tokens: int = 0
    drop_ratio: float = 0.5
    lp_comp: str = "none"

    def __post_init__(self):
        for name in ("budget", "min_tokens", "max_tokens", "drop_ratio"):
            fields.check(name, getattr(self, name))
        for name in ("strategy", "lp_comp"):
            fields.check_choice(name, getattr(self, name), "tempo")
        check_decode_options(self)

    @property
    def uses_budget(self) -> bool:
        """Whether the budget limits the number of visual tokens."""
        return self.compress and self.strategy not in PRUNE_STRATEGIES

    def token_limits(self, memory_tokens: int) -> tuple[int, int]:
        """The minimum and maximum number of tokens of a segment, given the model's `memory_tokens`."""
        max_tokens = min(self.max_tokens or memory_tokens, memory_tokens)
        return min(self.min_tokens, max_tokens), max_tokens
