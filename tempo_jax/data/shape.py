"""The static sizes of a batch, and which LLM row a conversation goes into."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of one shard's one micro-batch."""

    pool: int  # segments
    row_length: int  # compressor prompt, memory tokens included
    conversations: int  # LLM rows; each takes conversations, one after the other, while they fit
    length: int  # of an LLM row: prompts and answers, memory tokens included
    size: tuple[int, int] | None = None  # (height, width) of frames; None: the first sample's
    room: int | None = None  # segments of one conversation; None: as many as the pool has


def rows_of(lengths: Sequence[int], rows: int, length: int) -> list[int] | None:
    """The row of each conversation, the longest placed first, each where it fits first; None: no room."""
    room, placed = [length] * rows, [0] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((row for row in range(rows) if room[row] >= lengths[number]), None)
        if row is None:
            return None
        placed[number] = row
        room[row] -= lengths[number]
    return placed
