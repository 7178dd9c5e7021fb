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
class BatchShape:
    """Of one shard's one micro-batch."""

    segments: int  # segments
    compressor_length: int  # compressor prompt, memory tokens included
    sequences: int  # LLM rows; each takes conversations, one after the other, while they fit
    sequence_length: int  # of an LLM row: prompts and answers, memory tokens included
    size: tuple[int, int] | None = None  # (height, width) of frames; None: the first sample's
    max_sample_segments: int | None = None  # segments of one conversation; None: as many as the pool has


def first_fit_decreasing(lengths: Sequence[int], rows: int, length: int) -> list[int] | None:
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
class SampleSize:
    """What a sample takes of a batch's Shape."""

    segments: int
    compressor_tokens: int  # of all its segments
    max_prompt_tokens: int  # of them; each has Shape.row_length to itself
    tokens: int  # LLM prompt and answer; conversations share rows of Shape.length
    exclusive_row: bool = False  # has an LLM row to itself


def capacity_problem(need: SampleSize, shape: BatchShape) -> str | None:
    """Why a batch of `shape` can never hold the sample, or None."""
    for what, needed, room in (
        (
            "segments",
            need.segments,
            shape.segments if shape.max_sample_segments is None else shape.max_sample_segments,
        ),
        ("compressor tokens in a segment", need.max_prompt_tokens, shape.compressor_length),
        ("LLM tokens", need.tokens, shape.sequence_length),
    ):
        if needed > room:
            return f"more than {room} {what}"
    return None


def select_samples(window: Sequence[SampleSize], shape: BatchShape) -> list[int]:
    """Positions in `window` of the samples of the next batch, ascending; 0 is among them.

    Each must fit by itself (too_long).
    """
    chosen, room = [0], shape.segments - window[0].segments
    # Largest first; of equals the one that came first.
    rest = sorted(range(1, len(window)), key=lambda i: (-window[i].segments, i))
    for position in rest:
        together = [window[i].tokens for i in (*chosen, position)]
        if window[position].exclusive_row and len(chosen) >= shape.sequences:
            continue
        if window[position].segments <= room and first_fit_decreasing(
            together, shape.sequences, shape.sequence_length
        ):
            chosen.append(position)
            room -= window[position].segments
    return sorted(chosen)


def occupancy(needs: Sequence[SampleSize], shape: BatchShape) -> Counter:
    """What one batch holds and could hold, by kind: {"segments": …, "segments_room": …, …}; they add up."""
    return Counter(
        segments=sum(need.segments for need in needs),
        segments_room=shape.segments,
        compressor_tokens=sum(need.compressor_tokens for need in needs),
        compressor_tokens_room=shape.segments * shape.compressor_length,
        llm_tokens=sum(need.tokens for need in needs),
        llm_tokens_room=shape.sequences * shape.sequence_length,
    )


def padding_fraction(used: Counter) -> dict[str, float]:
    """Share of the room that stayed empty, by kind, over all that was added to `used`."""
    kinds = ("segments", "compressor_tokens", "llm_tokens")
    return {
        kind: 1 - used[kind] / used[f"{kind}_room"] for kind in kinds if used[kind] and used[f"{kind}_room"]
    }
