"""What may be asked of one question, checked."""

import dataclasses

import numpy as np

from tempo_jax.ata import KEEP_STRATEGIES
from tempo_jax.errors import TempoError


@dataclasses.dataclass(frozen=True)
class Options:
    """The per-question arguments of `Tempo.ask`; TempoError for values that make no sense."""

    budget: int = 8192
    strategy: str = "head"
    compress: bool = True
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("budget", "max_new_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise TempoError(f"{name} is {value!r}, but it must be a whole number of at least 1.")
        if self.strategy not in KEEP_STRATEGIES:
            known = ", ".join(KEEP_STRATEGIES)
            raise TempoError(f"strategy {self.strategy!r} is unknown: use one of {known}.")
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise TempoError(f"temperature is {self.temperature}, but it must be 0 (greedy) or above.")
        if not 0 < self.top_p <= 1:
            raise TempoError(f"top_p is {self.top_p}, but it must be above 0 and at most 1.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0
