"""Config fields that have had another name: the old ones work too, with one deprecation line."""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line

# Old path (with the present names of the sections around it) -> present path, for each entry point.
RENAMED: dict[str, dict[str, str]] = {
    "train": {
        "compression": "lp_comp",
        "optimiser": "optimizer",
        "optimizer.final_ratio": "optimizer.final_lr_fraction",
        "rates": "learning_rate",
        "learning_rate.svlm": "learning_rate.compressor",
        "batch.pool": "batch.segments",
        "batch.row_length": "batch.compressor_length",
        "batch.conversations": "batch.sequences",
        "batch.length": "batch.sequence_length",
        "batch.sizes": "batch.frame_sizes",
        "data.window": "data.packing_window",
        "max_not_finite": "max_nonfinite_steps",
    },
    "eval": {
        "batch": "decode_batch",
        "reuse": "video_cache",
        "workers": "decode_workers",
        "ahead_mib": "prefetch_mib",
        "published": "show_published",
    },
}
# Path of a field -> its old values and the new ones.
RENAMED_VALUES: dict[str, dict[str, str]] = {"task": {"svlm": "compressor"}}
# Of an entry of data.sources and validation.sources.
RENAMED_SOURCES = {
    "minireel_snippets": "minireel_clip_captions",
    "minireel_told": "minireel_caption_text",
    "minireel_noted": "minireel_evidence_text",
    "minireel_evidence": "minireel_segment_evidence",
}
RENAMED_SOURCE_FIELDS = {
    "spare": "num_distractors",
    "slots": "max_repeats",
    "turns": "max_turns",
    "described": "with_captions",
    "asked": "question_weights",
    "look_fps": "model_fps",
    "as_asked": "inference_prompt",
}
SOURCE_LISTS = ("data.sources", "validation.sources")


@functools.cache  # once a name
def announce(old: str, new: str) -> None:
    """Prints one deprecation line for a name that a user still gives."""
    command_line.say(f"Deprecated: {old} is now {new}; the old name still works.")


def current(path: str, table: Mapping[str, str]) -> str:
    """The present path of a field: "rates.svlm" is "learning_rate.compressor"."""
    found = ""
    for part in path.split("."):
        joined = f"{found}.{part}" if found else part
        found = table.get(joined, joined)
    return found


def current_arguments(argv: list[str], table: Mapping[str, str]) -> list[str]:
    """A command line whose `--config.` flags have the present names and values."""
    return [_current_argument(word, table) for word in argv]


def _current_argument(word: str, table: Mapping[str, str]) -> str:
    prefix = next((dashes for dashes in ("--config.", "-config.") if word.startswith(dashes)), None)
    if prefix is None:
        return word
    old, equals, value = word.removeprefix(prefix).partition("=")
    new = current(old, table)
    if new != old:
        announce(f"config.{old}", f"config.{new}")
    if value in (values := RENAMED_VALUES.get(new, {})):
        announce(f"config.{new}={value}", f"config.{new}={values[value]}")
        value = values[value]
    return f"{prefix}{new}{equals}{value}"


def migrate(values: Mapping[str, Any], table: Mapping[str, str], section: str = "") -> dict[str, Any]:
    """Stored plain values of a config with the present names of their fields."""
    fields = {}
    for name, value in values.items():
        path = current(f"{section}.{name}" if section else name, table)
        if isinstance(value, Mapping):
            value = migrate(value, table, path)
        elif path in SOURCE_LISTS:
            value = [migrate_source(source) for source in value]
        elif isinstance(value, str):
            value = RENAMED_VALUES.get(path, {}).get(value, value)
        fields[path.rpartition(".")[2]] = value
    return fields


def migrate_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `data.sources` with the present names of its kind and fields."""
    minireel = str(source.get("kind", "")).startswith("minireel")
    fields = {
        RENAMED_SOURCE_FIELDS.get(name, name) if minireel else name: value for name, value in source.items()
    }
    if fields.get("kind") in RENAMED_SOURCES:
        fields["kind"] = RENAMED_SOURCES[fields["kind"]]
    return fields


class RenamedConfigDict(ConfigDict):
    """A ConfigDict that knows the old names of its fields, so that users' own config files keep working."""

    _renamed: Mapping[str, str] = {}
    _section = ""

    def _current(self, name: Any) -> Any:
        if name not in self._renamed:
            return name
        section = f"config.{self._section}." if self._section else "config."
        announce(f"{section}{name}", f"{section}{self._renamed[name]}")
        return self._renamed[name]

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(self._renamed.get(key, key))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._current(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        key = self._current(key)
        path = f"{self._section}.{key}" if self._section else key
        if isinstance(value, str):
            value = RENAMED_VALUES.get(path, {}).get(value, value)
        super().__setitem__(key, value)

    def update(self, *other: Any, **fields: Any) -> None:
        values = dict(*other, **fields)
        super().update({self._current(name): value for name, value in values.items()})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name in ("_renamed", "_section"):
            object.__setattr__(self, name, state.get(name, getattr(type(self), name)))
        super().__setstate__(state)


def with_old_names(config: ConfigDict, table: Mapping[str, str], section: str = "") -> RenamedConfigDict:
    """The same config, whose fields answer to their old names too."""
    made = RenamedConfigDict()
    for name, value in config.items():
        path = f"{section}.{name}" if section else name
        made[name] = with_old_names(value, table, path) if isinstance(value, ConfigDict) else value
    renamed = {
        old.rpartition(".")[2]: new.rpartition(".")[2]
        for old, new in table.items()
        if old.rpartition(".")[0] == section
    }
    object.__setattr__(made, "_renamed", renamed)
    object.__setattr__(made, "_section", section)
    return made


def check_known(config: ConfigDict, default: ConfigDict, section: str = "config") -> None:
    """Raises TempoError for a field that `default` does not have: nothing would read it."""
    for name in config:
        if name not in default:
            raise TempoError(f"{section} has no field {name}: it may have {', '.join(default)}")
        if isinstance(default[name], ConfigDict) and isinstance(config[name], ConfigDict):
            check_known(config[name], default[name], f"{section}.{name}")
