"""The options of a question: one table of type, bounds, choices and help.

The Python API (`Tempo.ask`, `XComp.ask`, `video.open_video`), the command line, and the HTTP API with its
page check values against it and take their help texts from it. Defaults are those of each system's `Options`;
tests/test_fields.py holds that all of them agree.
"""

import dataclasses
import math
import numbers
from typing import Any

from tempo_jax.errors import TempoError

INT32_MAX = 2**31 - 1
SYSTEMS = ("tempo", "xcomp")


@dataclasses.dataclass(frozen=True)
class Field:
    """One option.

    Attributes:
      kind: int, float, str or bool.
      help: what it does, a phrase without a period.
      low: smallest value, included.
      high: largest value, included.
      served: (low, high) of the HTTP API where it admits less: for cost, or because OpenAI's API does.
      choices: of a str, by system.
      ablations: further choices of a str, which the Python API and eval.py take.
    """

    kind: type
    help: str
    low: float = 0
    high: float = INT32_MAX
    served: tuple[float, float] | None = None
    choices: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    ablations: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def every_choice(self) -> tuple[str, ...]:
        """Choices of any system, without ablations."""
        return tuple(dict.fromkeys(choice for choices in self.choices.values() for choice in choices))


FIELDS = {
    # Sampling of frames.
    "fps": Field(float, "sampling rate, in frames per second of video", 1e-6, 1e6),
    "min_frames": Field(int, "minimum number of sampled frames", 1, served=(1, 2048)),
    "max_frames": Field(
        int, "maximum number of sampled frames; longer videos are sampled more sparsely", 1, served=(1, 2048)
    ),
    # Compression.
    "budget": Field(
        int,
        "visual token budget: tokens of the whole video that the LLM gets, without time tags",
        1,
        2**63 - 1,  # lowered to the model's context
        served=(1, 16_384),
    ),
    "strategy": Field(
        str,
        "which memory tokens of a segment are kept (Tempo), or how frames are selected (XComp)",
        choices={
            "tempo": ("head", "tail", "random", "tome", "uniform"),
            "xcomp": ("local", "global", "uniform"),
        },
        ablations={"tempo": ("prune-topk", "prune-lastk", "prune-random")},
    ),
    "compress": Field(bool, "compress: if false, every visual token is kept, whatever its relevance"),
    "lp_comp": Field(
        str,
        "how visual tokens are dropped between the LLM's layers",
        choices={
            "tempo": ("none", "suffix", "prefix"),
            "xcomp": ("none", "released", "paper", "uniform", "steps"),
        },
    ),
    "min_tokens": Field(int, "minimum memory tokens of a segment", 0, 2**20 - 1),
    "max_tokens": Field(int, "maximum memory tokens of a segment; 0: as many as the model has", 0, 2**20 - 1),
    "drop_ratio": Field(float, "share of segments that the strategies prune-* drop", 0, 1),
    "repeats": Field(int, "passes of frame scoring", 1),
    "query_skip": Field(int, "leading question tokens that frame scoring leaves out", 0),
    "repetition_penalty": Field(float, "penalty of repeated tokens; 1.0 is none (XComp)", 1e-6, 1e3),
    # Decoding.
    "max_new_tokens": Field(int, "maximum length of the answer, in tokens", 1, served=(1, 4096)),
    "temperature": Field(float, "sampling temperature; 0 is greedy decoding", 0, 1e6, served=(0, 2)),
    "top_p": Field(float, "nucleus sampling: probability mass that tokens are drawn from", 1e-6, 1),
    "seed": Field(int, "seed of sampling; the same seed gives the same answer", 0, 2**63 - 1),
}


def check(name: str, value: Any, *, served: bool = False) -> Any:
    """Checks a numeric or boolean option.

    Args:
      name: a key of FIELDS.
      value: an int, a float or a bool (numpy's too), as the field wants it.
      served: whether the bounds of the HTTP API hold.

    Returns:
      The value as a plain int, float or bool.

    Raises:
      TempoError: It is of another type, or out of bounds.
    """
    field = FIELDS[name]
    if field.kind is bool:
        if isinstance(value, bool):
            return value
        raise TempoError(f"{name} is {shortened(value)}, but it must be true or false.")
    low, high = bounds(name, served)
    is_number = isinstance(value, numbers.Integral if field.kind is int else numbers.Real)
    # Compared before anything is computed with it: JSON has integers of any size.
    if is_number and not isinstance(value, bool) and low <= value <= high and math.isfinite(value):
        return field.kind(value)
    raise TempoError(f"{name} is {shortened(value)}, but it must be {described(name, served)}.")


def check_choice(name: str, value: Any, system: str, choices: tuple[str, ...] | None = None) -> str:
    """Checks an option that has choices.

    Args:
      name: a key of FIELDS.
      value: one of the choices.
      system: "tempo" or "xcomp".
      choices: those to admit, where they are not the system's and its ablations.

    Returns:
      The value.

    Raises:
      TempoError: It is none of them.
    """
    field = FIELDS[name]
    known = choices or field.choices[system] + field.ablations.get(system, ())
    if isinstance(value, str) and value in known:
        return value
    others = [other for other in SYSTEMS if other != system and value in field.choices.get(other, ())]
    reason = f" (a choice of {others[0]})" if others else ""
    raise TempoError(f"{name} is {shortened(value)}{reason}, but it must be one of {', '.join(known)}.")


def bounds(name: str, served: bool = False) -> tuple[float, float]:
    """The smallest and largest value of a numeric option, both included."""
    field = FIELDS[name]
    return field.served if served and field.served else (field.low, field.high)


def described(name: str, served: bool = False) -> str:
    """The values of a numeric option, as an error message names them."""
    (low, high), kind = bounds(name, served), FIELDS[name].kind
    return f"a{' whole' if kind is int else ''} number from {low:.15g} to {_bound(high)}"


def _bound(value: float) -> str:
    return "2**63 - 1" if value == 2**63 - 1 else f"{value:.15g}"


def shortened(value: Any) -> str:
    """A value in at most 80 characters; integers may be too long to be printed."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.80}"
