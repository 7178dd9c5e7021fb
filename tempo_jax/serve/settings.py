"""The settings of a question in the HTTP API and on the page; types and bounds are those of `fields.FIELDS`.

Defaults are the model's.
"""

import dataclasses
import difflib
import re
from typing import Any

from tempo_jax import fields
from tempo_jax.errors import TempoError
from tempo_jax.fields import FIELDS
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.model import Model
from tempo_jax.serve.store import FrameSampling

LIBRARY_ID = re.compile(r"video-[0-9a-f]{24}")  # ids of the library's videos


@dataclasses.dataclass(frozen=True)
class Setting:
    """How the page shows a field.

    Attributes:
      label: its caption.
      slider: (low, high, step) of the demo that the authors published; None: a number is typed in.
      main: whether it is shown before "more settings" is opened.
    """

    label: str
    slider: tuple[float, float, float] | None = None
    main: bool = False


SETTINGS = {
    "budget": Setting("Visual token budget", (64, 16_384, 64), main=True),
    "max_frames": Setting("Maximum sampled frames", (16, 2048, 16), main=True),
    "min_frames": Setting("Minimum sampled frames"),
    "fps": Setting("Frames per second"),
    "strategy": Setting("Strategy", main=True),
    "compress": Setting("Compress", main=True),
    "max_new_tokens": Setting("Maximum new tokens", (64, 4096, 64), main=True),
    "temperature": Setting("Temperature", (0, 1, 0.1), main=True),
    "top_p": Setting("Top-p"),
    "seed": Setting("Seed"),
}
SAMPLING = tuple(field.name for field in dataclasses.fields(FrameSampling) if field.name in SETTINGS)
JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def validate(name: str, value: Any, model: Model) -> Any:
    """Checks the value of a setting.

    Raises:
      TempoError: It is of another type, out of the HTTP API's bounds, or none of the model's choices.
    """
    field = FIELDS[name]
    if field.kind is str:
        return fields.check_choice(name, value, "tempo", model.strategies)
    if field.kind is int and isinstance(value, float) and value.is_integer():  # 7.0, as some clients write
        value = int(value)
    return fields.check(name, value, served=True)


def read(values: dict[str, Any], model: Model) -> tuple[FrameSampling, Any]:
    """The sampling of the video and the options of the question; None means the default.

    TempoError as `validate`.
    """
    for name in values:
        if name not in SETTINGS:
            raise TempoError(_unknown(name))
    checked = {n: validate(n, value, model) for n, value in values.items() if value is not None}
    sampling = {name: checked.pop(name) for name in SAMPLING if name in checked}
    return dataclasses.replace(model.frames, **sampling), model.options(**checked)


def _unknown(name: str, place: str = "") -> str:
    near = difflib.get_close_matches(name, SETTINGS, 1)
    return f"The setting {name[:80]!r} is unknown{place}: use {near[0] if near else ', '.join(SETTINGS)}."


def unknown(name: str, place: str) -> ApiError:
    """The error for an unknown setting in the object at `place`."""
    return ApiError(400, _unknown(name, f" in {place}"), "unknown_parameter", f"{place}.{name[:80]}")


def described(model: Model) -> list[dict]:
    """The table as JSON, with the model's defaults."""
    defaults = {**vars(model.frames), **vars(model.options())}
    rows = []
    for name, setting in SETTINGS.items():
        field = FIELDS[name]
        row = {
            "name": name,
            "type": JSON_TYPES[field.kind],
            "label": setting.label,
            "help": f"{field.help[0].upper()}{field.help[1:]}.",
            "group": "video" if name in SAMPLING else "answer",
            "main": setting.main,
            "default": defaults[name],  # None: chosen by the video's length
            "published": None,
        }
        if field.kind is str:
            row["choices"] = list(model.strategies)
        elif field.kind is not bool:
            row["minimum"], row["maximum"] = fields.bounds(name, served=True)
        if setting.slider:
            row["published"] = dict(zip(("minimum", "maximum", "step"), setting.slider))
        rows.append(row)
    return rows
