"""The settings of a question in the HTTP API and on the page, and the fields of a chat request that set them.

Types and bounds are those of `fields.FIELDS`; defaults are the model's. A field of a chat request is
supported, or accepted if it has no effect; others are refused.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
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


# OpenAI's names of settings -> ours.
NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}
OURS = tuple(name for name in SETTINGS if name not in NAMES)
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")  # accepted and ignored
REQUEST = ("model", "messages", "stream", "stream_options", "stop", "tempo", "mm_processor_kwargs")
# Unsupported field -> its values without effect, besides null.
REQUEST_NOOP_VALUES: dict[str, tuple] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "logit_bias": ({},),
    "audio": (),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
MESSAGE_NOOP_VALUES: dict[str, tuple] = {
    "name": (),
    "refusal": (),
    "audio": (),
    "annotations": ([],),
    "function_call": (),
    "tool_calls": ([],),
    "reasoning_content": ("",),
}
# Types of content parts that carry a video or image -> the fields, one in the other, that hold its address.
VISUAL_PARTS = {
    "video_url": ("video_url", "url"),
    "image_url": ("image_url", "url"),
    "video": ("video", "url"),
    "image": ("image", "url"),
    "file": ("file", "file_id"),
}
ADDRESS_NOOP_VALUES: dict[str, tuple] = {"detail": ("auto", "high"), "format": (), "filename": ()}


def known(
    values: Mapping,
    names: tuple[str, ...],
    noop_values: Mapping[str, tuple],
    prefix: str = "",
    labels: tuple = LABELS,
) -> None:
    """Raises ApiError 400 for a field that is not in `names` and has an effect."""
    for name, value in values.items():
        if name in names or value is None or name in labels:
            continue
        path = f"{prefix}.{name[:80]}" if prefix else name[:80]
        if name in noop_values and any(_alike(value, harmless) for harmless in noop_values[name]):
            continue
        problem = "is not supported" if name in noop_values else "is not known here"
        raise ApiError(400, f"{path} {problem}: leave it out.", "unsupported_parameter", path)


def _alike(value: Any, harmless: Any) -> bool:
    return value == harmless and isinstance(value, bool) == isinstance(harmless, bool)


class Settings:
    """Settings collected from several fields of a request."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._places: dict[str, str] = {}

    def add(self, name: str, value: Any, place: str) -> None:
        """Adds a setting; raises ApiError 400 if another field gives it another value."""
        if value is None:
            return
        if name in self.values and self.values[name] != value:
            raise ApiError(
                400,
                f"{place} is {value!r:.40} but {self._places[name]} is {self.values[name]!r:.40}: give one.",
                "conflicting_values",
                place,
            )
        self.values[name], self._places[name] = value, place

    def add_object(self, values: Any, place: str) -> None:
        """Adds the settings of an object; raises ApiError 400 for an unknown one."""
        if values is None:
            return
        if not isinstance(values, dict):
            raise ApiError(400, f"{place} must be an object of settings.", "invalid_value", place)
        for name, value in values.items():
            if name not in SETTINGS:
                raise unknown(name, place)
            self.add(name, value, f"{place}.{name}")
