"""The settings of a question: one table for the HTTP API, its description and the page.

What is not given is the model's own.
"""

import dataclasses
import difflib
import math
import re
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.model import Model
from tempo_jax.serve.store import FrameSampling

LIBRARY_ID = re.compile(r"video-[0-9a-f]{24}")  # ids of the library's videos


@dataclasses.dataclass(frozen=True)
class Setting:
    """low, high: what the API takes, both included; slider: (low, high, step) of the published demo."""

    kind: type
    label: str
    help: str
    low: float = 0
    high: float = 0
    slider: tuple[float, float, float] | None = None
    main: bool = False  # shown first


SETTINGS = {
    "budget": Setting(
        int,
        "Visual tokens to spend",
        "Memory tokens that the language model may see of the whole video; time tags are not counted.",
        *(1, 16_384),
        slider=(64, 16_384, 64),
        main=True,
    ),
    "max_frames": Setting(
        int,
        "Frames to look at, at most",
        "Longer videos are sampled more thinly.",
        *(1, 2048),
        slider=(16, 2048, 16),
        main=True,
    ),
    "min_frames": Setting(
        int, "Frames to look at, at least", "Shorter videos are sampled more densely, if they can be.",
        *(1, 2048),
    ),
    "fps": Setting(float, "Frames a second", "How densely the video is sampled within these.", *(0.01, 60)),
    "strategy": Setting(str, "What to keep", "What of all that was seen stays within the budget.", main=True),
    "compress": Setting(
        bool,
        "Compress",
        "Off: every token is kept, as the published baseline does, if the video is short enough.",
        main=True,
    ),
    "max_new_tokens": Setting(
        int,
        "Length of the answer, in tokens at most",
        "The answer is cut off there.",
        *(1, 4096),
        slider=(64, 4096, 64),
        main=True,
    ),
    "temperature": Setting(
        float, "Temperature", "0 is greedy: always the likeliest word. Higher values vary the answer.",
        *(0, 2), slider=(0, 1, 0.1), main=True,
    ),
    "top_p": Setting(
        float, "Top-p", "Of the likeliest words those of this total probability are drawn from.", *(1e-6, 1)
    ),
    "seed": Setting(int, "Seed", "The same seed draws the same answer.", *(0, 2**63 - 1)),
}  # fmt: skip
SAMPLING = tuple(field.name for field in dataclasses.fields(FrameSampling) if field.name in SETTINGS)
JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def validate(name: str, value: Any, strategies: tuple[str, ...]) -> Any:
    """The value of a setting; TempoError says what it may be."""
    setting = SETTINGS[name]
    if setting.kind is bool:
        if isinstance(value, bool):
            return value
        raise TempoError(f"{name} is {value!r:.80}, but it must be true or false.")
    if setting.kind is str:
        if isinstance(value, str) and value in strategies:
            return value
        raise TempoError(f"{name} is {value!r:.80}, but it must be one of {', '.join(strategies)}.")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared before anything is computed with it: JSON has whole numbers of any size.
    if (
        number
        and setting.low <= value <= setting.high
        and math.isfinite(value)
        and setting.kind(value) == value
    ):
        return setting.kind(value)
    type_name = "a whole number" if setting.kind is int else "a number"
    bounds = f"{setting.low:.15g} to {setting.high:.15g}"
    raise TempoError(f"{name} is {_short(value)}, but it must be {type_name} from {bounds}.")


def _short(value: Any) -> str:
    """The value in at most 80 characters; whole numbers may be too long to be written out."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.80}"


def read(values: dict[str, Any], model: Model) -> tuple[FrameSampling, Any]:
    """How to sample the video, and the model's options of the question; None counts as not given.

    TempoError as `validate`.
    """
    for name in values:
        if name not in SETTINGS:
            raise TempoError(_unknown(name))
    checked = {n: validate(n, value, model.strategies) for n, value in values.items() if value is not None}
    sampling = {name: checked.pop(name) for name in SAMPLING if name in checked}
    return dataclasses.replace(model.frames, **sampling), model.options(**checked)


def _unknown(name: str, place: str = "") -> str:
    near = difflib.get_close_matches(name, SETTINGS, 1)
    return f"The setting {name[:80]!r} is unknown{place}: use {near[0] if near else ', '.join(SETTINGS)}."


def unknown(name: str, place: str) -> ApiError:
    """Of an object of settings at `place`."""
    return ApiError(400, _unknown(name, f" in {place}"), "unknown_parameter", f"{place}.{name[:80]}")


def described(model: Model) -> list[dict]:
    """The table as JSON, with the model's defaults."""
    defaults = {**vars(model.frames), **vars(model.options())}
    rows = []
    for name, setting in SETTINGS.items():
        row = {
            "name": name,
            "type": JSON_TYPES[setting.kind],
            "label": setting.label,
            "help": setting.help,
            "group": "video" if name in SAMPLING else "answer",
            "main": setting.main,
            "default": defaults[name],  # None: as the video asks for
            "published": None,
        }
        if setting.kind is str:
            row["choices"] = list(model.strategies)
        elif setting.kind is not bool:
            row |= {"minimum": setting.low, "maximum": setting.high}
        if setting.slider:
            row["published"] = dict(zip(("minimum", "maximum", "step"), setting.slider))
        rows.append(row)
    return rows
