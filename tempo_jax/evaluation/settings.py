"""The grid of settings that every question of a run is asked under."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.tempo.options import MIN_TOKENS, PRUNE_STRATEGIES

UNCOMPRESSED = "none"  # a strategy of ours: every memory token of every segment
FREE_SPENDING = (UNCOMPRESSED, *PRUNE_STRATEGIES)  # strategies that no budget changes


@dataclasses.dataclass(frozen=True)
class Setting:
    """What changes from one row of the report to the next.

    budget: memory tokens the LLM may see; None for a strategy that has no use for it. min_tokens,
    max_tokens: of a segment, the latter 0 for all that the model has.
    """

    max_frames: int
    strategy: str
    budget: int | None
    min_tokens: int
    max_tokens: int

    @property
    def name(self) -> str:
        """How rows of a run's file and the report call it."""
        parts = [f"{self.max_frames} frames", self.strategy]
        if self.budget is not None:
            parts.append(f"budget {self.budget}")
        if (self.min_tokens, self.max_tokens) != (MIN_TOKENS, 0):
            parts.append(f"{self.min_tokens} to {self.max_tokens or 'all'} a segment")
        return ", ".join(parts)

    def options(self) -> dict[str, Any]:
        """The arguments of Clip.ask."""
        if self.strategy == UNCOMPRESSED:
            return {"compress": False}
        limits = {"min_tokens": self.min_tokens, "max_tokens": self.max_tokens}
        budget = {} if self.budget is None else {"budget": self.budget}
        return {"strategy": self.strategy, **budget, **limits}


AXES = tuple(field.name for field in dataclasses.fields(Setting))


def grid(config: ConfigDict) -> list[Setting]:
    """All combinations of the config's values, each once, those of one number of frames together."""
    return list(dict.fromkeys(_all(config)))


def _all(config: ConfigDict) -> Iterator[Setting]:
    for values in itertools.product(*(axis(config, name) for name in AXES)):
        setting = Setting(*values)
        if setting.strategy in FREE_SPENDING:
            setting = dataclasses.replace(setting, budget=None)
        if setting.strategy == UNCOMPRESSED:
            setting = dataclasses.replace(setting, min_tokens=MIN_TOKENS, max_tokens=0)
        yield setting


def axis(config: ConfigDict, name: str) -> tuple:
    """The values of one axis; --config.strategy=head,tail comes as one text."""
    values = config[name]
    return tuple(
        part for value in values for part in (value.split(",") if isinstance(value, str) else (value,))
    )
