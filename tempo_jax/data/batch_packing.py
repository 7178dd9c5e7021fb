"""The static shape of a batch, and the selection of samples for it from a window, so that padding is small.

A batch has a buffer of segments and a number of sequences into which conversations are packed. The window
holds samples in order of arrival. A batch takes the first one, so that none waits forever, and then again and
again the largest that fits. Large samples leave the window early and small ones fill gaps, so the window soon
holds what fills every batch. Pure and deterministic.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The static sizes of one micro-batch of one data shard."""

    segments: int  # segment buffer (task xcomp: clips)
    compressor_length: int  # tokens of a compressor prompt, memory tokens included
    sequences: int  # LLM sequences, into which conversations are packed
    sequence_length: int  # tokens of an LLM sequence, memory tokens included
    size: tuple[int, int] | None = None  # (height, width) of frames; None: those of the first sample
    max_sample_segments: int | None = None  # limit of one conversation; None: the whole buffer


def first_fit_decreasing(lengths: Sequence[int], rows: int, length: int) -> list[int] | None:
    """Packs conversations into rows, longest first: the row of each, or None where they do not fit."""
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
    """What a sample occupies of a BatchShape."""

    segments: int
    compressor_tokens: int  # prompt tokens of all its segments
    max_prompt_tokens: int  # of its longest compressor prompt; each prompt has a row to itself
    tokens: int  # LLM prompt and answer; conversations share sequences
    exclusive_row: bool = False  # the conversation has a sequence to itself


def capacity_problem(need: SampleSize, shape: BatchShape) -> str | None:
    """Returns why a batch of `shape` can never hold the sample, or None."""
    for kind, needed, capacity in (
        (
            "segments",
            need.segments,
            shape.segments if shape.max_sample_segments is None else shape.max_sample_segments,
        ),
        ("compressor tokens in a segment", need.max_prompt_tokens, shape.compressor_length),
        ("LLM tokens", need.tokens, shape.sequence_length),
    ):
        if needed > capacity:
            return f"more than {capacity} {kind}"
    return None


def select_samples(window: Sequence[SampleSize], shape: BatchShape) -> list[int]:
    """Selects the samples of the next batch: ascending positions in `window`, 0 among them.

    Each sample must fit by itself (see `capacity_problem`).
    """
    chosen, room = [0], shape.segments - window[0].segments
    # Largest first; among equals in order of arrival.
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
    """Counts what one batch holds and could hold: {"segments": …, "segments_room": …, …}."""
    return Counter(
        segments=sum(need.segments for need in needs),
        segments_room=shape.segments,
        compressor_tokens=sum(need.compressor_tokens for need in needs),
        compressor_tokens_room=shape.segments * shape.compressor_length,
        llm_tokens=sum(need.tokens for need in needs),
        llm_tokens_room=shape.sequences * shape.sequence_length,
    )


def padding_fraction(used: Counter) -> dict[str, float]:
    """Returns the padding of all batches in `used`: {kind: empty fraction of the capacity}."""
    kinds = ("segments", "compressor_tokens", "llm_tokens")
    return {
        kind: 1 - used[kind] / used[f"{kind}_room"] for kind in kinds if used[kind] and used[f"{kind}_room"]
    }
