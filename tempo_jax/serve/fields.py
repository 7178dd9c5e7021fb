"""Fields of a chat request: those supported, those accepted if they have no effect; others are refused."""

from collections.abc import Mapping
from typing import Any

from tempo_jax.serve import settings
from tempo_jax.serve.errors import ApiError

# OpenAI's names of settings -> ours.
NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}
OURS = tuple(name for name in settings.SETTINGS if name not in NAMES)
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
            if name not in settings.SETTINGS:
                raise settings.unknown(name, place)
            self.add(name, value, f"{place}.{name}")
