"""Which parameters learn, and how fast: one table of named parts (facts/tempo.md §1.3, §4.1)."""

import re
from collections.abc import Mapping
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.utils.tree import flatten, nest

# Group -> the native paths it owns. Every parameter of Tempo, or of a
# backbone alone, belongs to exactly one.
GROUPS: dict[str, str] = {
    "vision": r"(compressor/)?vision/.*",
    "svlm": r"(compressor/)?text/.*",
    "memory": r"compressor/memory/.*",
    "projector": r"projector/.*",
    "llm": r"(llm/)?(embed|layers|norm|head)/.*",
    "relevance": r"compressor/relevance/.*",  # the base model's Yes/No direction: never learned (§3.1)
}
LEARNABLE = tuple(name for name in GROUPS if name != "relevance")


def group_of(path: str) -> str:
    """The group a native parameter path belongs to; KeyError for a path of no group."""
    for name, pattern in GROUPS.items():
        if re.fullmatch(pattern, path):
            return name
    raise KeyError(path)


def split(params: Mapping, rates: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat {path: array} of the learning parameters and of the frozen ones.

    rates: learning rate of each group; 0 or absent freezes it. Frozen parameters cost no gradient
    and no optimiser memory, since only the first dict is differentiated.
    """
    unknown = sorted(set(rates) - set(LEARNABLE))
    if unknown:
        raise TempoError(f"there is no parameter group {', '.join(unknown)}: use {', '.join(LEARNABLE)}")
    flat = flatten(params)
    learning = {path for path in flat if rates.get(group_of(path), 0) > 0}
    if not learning:
        raise TempoError("every parameter group is frozen: give at least one a learning rate above 0")
    return {p: x for p, x in flat.items() if p in learning}, {
        p: x for p, x in flat.items() if p not in learning
    }


def join(learning: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
    """The nested parameter tree again."""
    return nest({**frozen, **learning})
