"""The settings of a question: one table for the HTTP API and the page.

What is not given is the model's own.
"""

import dataclasses
import math
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.serve.model import Model
from tempo_jax.serve.store import Frames


@dataclasses.dataclass(frozen=True)
class Setting:
    """low, high: what the API takes, both included; slider: (low, high, step) of the published demo."""

    kind: type
    low: float = 0
    high: float = 0
    slider: tuple[float, float, float] | None = None


SETTINGS = {
    "budget": Setting(int, 1, 16_384, slider=(64, 16_384, 64)),
    "max_frames": Setting(int, 1, 2048, slider=(16, 2048, 16)),
    "min_frames": Setting(int, 1, 2048),
    "fps": Setting(float, 0.01, 60),
    "strategy": Setting(str),  # one of the model's
    "compress": Setting(bool),
    "max_new_tokens": Setting(int, 1, 4096, slider=(64, 4096, 64)),
    "temperature": Setting(float, 0, 2, slider=(0, 1, 0.1)),
    "top_p": Setting(float, 1e-6, 1),
    "seed": Setting(int, 0, 2**63 - 1),
}
SAMPLING = tuple(field.name for field in dataclasses.fields(Frames))


def checked(name: str, value: Any, strategies: tuple[str, ...]) -> Any:
    """The value of a setting; TempoError says what it may be."""
    setting = SETTINGS[name]
    if setting.kind is bool:
        if isinstance(value, bool):
            return value
        raise TempoError(f"{name} is {value!r:.80}, but it must be true or false.")
    if setting.kind is str:
        if value in strategies:
            return value
        raise TempoError(f"{name} is {value!r:.80}, but it must be one of {', '.join(strategies)}.")
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and setting.low <= value <= setting.high and setting.kind(value) == value:
        return setting.kind(value)
    what = "a whole number" if setting.kind is int else "a number"
    bounds = f"{setting.low:.15g} to {setting.high:.15g}"
    raise TempoError(f"{name} is {value!r:.80}, but it must be {what} from {bounds}.")


def read(values: dict[str, Any], model: Model) -> tuple[Frames, Any]:
    """How to sample the video, and the model's options of the question; None counts as not given.

    TempoError as `checked`.
    """
    if unknown := set(values) - set(SETTINGS):
        raise TempoError(f"The setting {min(unknown)!r:.80} is unknown: use {', '.join(SETTINGS)}.")
    given = {n: checked(n, value, model.strategies) for n, value in values.items() if value is not None}
    sampling = {name: given.pop(name) for name in SAMPLING if name in given}
    return dataclasses.replace(model.frames, **sampling), model.options(**given)
