"""The static sizes of a batch, and which samples go into it: from a window, so that little of it stays empty.

A batch has room for some segments (the pool) and some rows of conversations. The window holds samples in
order of arrival; a batch takes the one that came first, so that nobody waits for ever, and then the
largest that fits, again and again. Large samples leave the window early and small ones fill gaps, so
the window soon holds what is needed to fill every batch. Pure and deterministic.
"""

import dataclasses
from collections import Counter
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


@dataclasses.dataclass(frozen=True)
class Need:
    """What a sample takes of a batch's Shape."""

    segments: int
    compressor_tokens: int  # of all its segments
    longest_row: int  # of them; each has Shape.row_length to itself
    tokens: int  # LLM prompt and answer; conversations share rows of Shape.length
    alone: bool = False  # has an LLM row to itself


def too_long(need: Need, shape: Shape) -> str | None:
    """Why a batch of `shape` can never hold the sample, or None."""
    for what, needed, room in (
        ("segments", need.segments, shape.pool if shape.room is None else shape.room),
        ("compressor tokens in a segment", need.longest_row, shape.row_length),
        ("LLM tokens", need.tokens, shape.length),
    ):
        if needed > room:
            return f"more than {room} {what}"
    return None


def choose(window: Sequence[Need], shape: Shape) -> list[int]:
    """Positions in `window` of the samples of the next batch, ascending; 0 is among them.

    Each must fit by itself (too_long).
    """
    chosen, room = [0], shape.pool - window[0].segments
    # Largest first; of equals the one that came first.
    rest = sorted(range(1, len(window)), key=lambda i: (-window[i].segments, i))
    for position in rest:
        together = [window[i].tokens for i in (*chosen, position)]
        if window[position].alone and len(chosen) >= shape.conversations:
            continue
        if window[position].segments <= room and rows_of(together, shape.conversations, shape.length):
            chosen.append(position)
            room -= window[position].segments
    return sorted(chosen)


def usage(needs: Sequence[Need], shape: Shape) -> Counter:
    """What one batch holds and could hold, by kind: {"segments": …, "segments_room": …, …}; they add up."""
    return Counter(
        segments=sum(need.segments for need in needs),
        segments_room=shape.pool,
        compressor_tokens=sum(need.compressor_tokens for need in needs),
        compressor_tokens_room=shape.pool * shape.row_length,
        llm_tokens=sum(need.tokens for need in needs),
        llm_tokens_room=shape.conversations * shape.length,
    )


def waste(used: Counter) -> dict[str, float]:
    """Share of the room that stayed empty, by kind, over all that was added to `used`."""
    kinds = ("segments", "compressor_tokens", "llm_tokens")
    return {
        kind: 1 - used[kind] / used[f"{kind}_room"] for kind in kinds if used[kind] and used[f"{kind}_room"]
    }
