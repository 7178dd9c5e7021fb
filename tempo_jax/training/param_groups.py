"""Groups of parameters that are trained or frozen together, each with its own learning rate."""

import re
from collections.abc import Mapping
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.utils.tree import flatten, nest

# Group -> the native parameter paths it owns. Every parameter of a system, or of a backbone alone, belongs to
# exactly one.
GROUPS: dict[str, str] = {
    "vision": r"(compressor/)?vision/.*",
    "compressor": r"(compressor/)?text/.*",
    "memory": r"compressor/memory/.*",
    "projector": r"projector/.*",
    "llm": r"(llm/)?(embed|layers|norm|head)/.*",
    "relevance": r"compressor/relevance/.*",  # the base model's Yes/No direction, never trained
}
# Groups whose name in checkpoints and in log.jsonl is an older one.
STORED_NAMES = {"compressor": "svlm"}
TRAINABLE_GROUPS = tuple(name for name in GROUPS if name != "relevance")


def group_of(path: str) -> str:
    """Returns the group of a native parameter path; raises KeyError for a path of no group."""
    for name, pattern in GROUPS.items():
        if re.fullmatch(pattern, path):
            return name
    raise KeyError(path)


def partition(params: Mapping, learning_rates: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits parameters into trainable and frozen ones.

    Frozen parameters cost no gradient and no optimizer memory, since only the first dict is differentiated.

    Args:
      params: The nested parameter tree.
      learning_rates: Learning rate of each group; 0 or absent freezes it.

    Returns:
      Flat {path: array} of the trainable parameters, and of the frozen ones.

    Raises:
      TempoError: A group is unknown, or every group is frozen.
    """
    unknown = sorted(set(learning_rates) - set(TRAINABLE_GROUPS))
    if unknown:
        raise TempoError(
            f"there is no parameter group {', '.join(unknown)}: use {', '.join(TRAINABLE_GROUPS)}"
        )
    flat = flatten(params)
    trainable = {path for path in flat if learning_rates.get(group_of(path), 0) > 0}
    if not trainable:
        raise TempoError("every parameter group is frozen: give at least one a learning rate above 0")
    return {p: x for p, x in flat.items() if p in trainable}, {
        p: x for p, x in flat.items() if p not in trainable
    }


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
    """Returns the nested parameter tree of both parts."""
    return nest({**frozen, **trainable})
