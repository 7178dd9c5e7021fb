"""The grid of settings under which a run asks every question."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.tempo.options import MIN_TOKENS, PRUNE_STRATEGIES

NO_COMPRESSION = "none"  # every memory token of every segment
UNBUDGETED_STRATEGIES = (NO_COMPRESSION, *PRUNE_STRATEGIES)  # strategies without a budget


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes:
      max_frames: Maximum number of sampled frames.
      strategy: How memory tokens are allocated and kept.
      budget: Visual token budget; None for a strategy without one.
      min_tokens: Least tokens of a segment.
      max_tokens: Most tokens of a segment; 0: all.
    """

    max_frames: int
    strategy: str
    budget: int | None
    min_tokens: int
    max_tokens: int

    @property
    def name(self) -> str:
        """Its name in rows and reports."""
        parts = [f"{self.max_frames} frames", self.strategy]
        if self.budget is not None:
            parts.append(f"budget {self.budget}")
        if (self.min_tokens, self.max_tokens) != (MIN_TOKENS, 0):
            parts.append(f"{self.min_tokens} to {self.max_tokens or 'all'} a segment")
        return ", ".join(parts)

    def options(self) -> dict[str, Any]:
        """Returns the arguments of `Clip.ask`."""
        if self.strategy == NO_COMPRESSION:
            return {"compress": False}
        limits = {"min_tokens": self.min_tokens, "max_tokens": self.max_tokens}
        budget = {} if self.budget is None else {"budget": self.budget}
        return {"strategy": self.strategy, **budget, **limits}


AXES = tuple(field.name for field in dataclasses.fields(Setting))


def grid(config: ConfigDict) -> list[Setting]:
    """Returns all combinations of the config's values, each once, grouped by number of frames."""
    return list(dict.fromkeys(_all(config)))


def _all(config: ConfigDict) -> Iterator[Setting]:
    for values in itertools.product(*(axis(config, name) for name in AXES)):
        setting = Setting(*values)
        if setting.strategy in UNBUDGETED_STRATEGIES:
            setting = dataclasses.replace(setting, budget=None)
        if setting.strategy == NO_COMPRESSION:
            setting = dataclasses.replace(setting, min_tokens=MIN_TOKENS, max_tokens=0)
        yield setting


def axis(config: ConfigDict, name: str) -> tuple:
    """Returns the values of one axis; --config.strategy=head,tail arrives as one text."""
    values = config[name]
    return tuple(
        part for value in values for part in (value.split(",") if isinstance(value, str) else (value,))
    )
