"""One data shard: an endless stream of batches made from its part of the sources.

Packing looks at what samples need, not at their pixels: a window holds samples with their frames still
encoded (or not yet rendered), and frames are made when their batch is. The state of a shard is where its
sources stand and which samples are in the window; a restored shard reads those again.
"""

import concurrent.futures
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from tempo_jax.data import batch_packing, buckets
from tempo_jax.data.batch_packing import Shape
from tempo_jax.data.samples import Sample
from tempo_jax.data.sources import RandomAccess
from tempo_jax.data.task import Task
from tempo_jax.errors import TempoError
from tempo_jax.prompts import Tokenizer

SKIPPED = "skipped: "  # what the names of counts of skipped samples begin with
_LEAST_PATIENCE = 500  # samples
_MOST_PATIENCE = 2000  # unusable ones in a row: made-up data has no end, and nobody should wait for it
_CHANGED = "The data are not those of the saved state: start a new run from the checkpoint's weights."
_ELSEWHERE = "of another size or length bucket"  # not lost: the stream of that one has it


@dataclasses.dataclass(frozen=True)
class _Item:
    """A usable sample and where it came from, so that it can be read again."""

    sample: Sample
    need: batch_packing.Need
    source: int
    index: int  # in the shard's endless stream of this source


@dataclasses.dataclass(frozen=True)
class _Skipped:
    reason: str


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A source as grain sees it: every element is an _Item (index yet unknown) or _Skipped."""

    source: RandomAccess
    number: int
    slot: "Slot"
    recipe: "Recipe"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Item | _Skipped:
        recipe = self.recipe
        try:
            if recipe.elsewhere(self.source, index, self.slot.bucket):
                return _Skipped(_ELSEWHERE)  # without reading it
            sample = self.source[index]
            if sample is None:
                return _Skipped("the source has none there")
            need = recipe.need(sample)
            # Without segments and images any size would do: the first one's stream has it.
            any_size = not need.segments and not need.alone
            size = recipe.sizes[0] if any_size else tuple(sample.frames.shape[1:3])
            if size != self.slot.size:
                return _Skipped(_ELSEWHERE if size in recipe.sizes else f"frames of {size[0]}x{size[1]}")
        except Exception as error:  # whatever a damaged record makes of itself: never fatal
            return _Skipped(_reason(error))
        if reason := batch_packing.too_long(need, recipe.buckets[-1].shape(recipe.shape)):
            return _Skipped(reason)
        if buckets.bucket_of(need.segments, recipe.buckets) != self.slot.bucket:
            return _Skipped(_ELSEWHERE)
        return _Item(sample, need, self.number, -1)


def identity(source: RandomAccess) -> dict[str, Any]:
    """{"length", "name", "fingerprint"}; the fingerprint is empty where only the config says what it is."""
    names = {name: str(getattr(source, name, "")) for name in ("name", "fingerprint")}
    return {"length": len(source)} | names


def check_same(state: Mapping, recipe: "Recipe") -> None:
    """TempoError, by name, where the sources are not those of a saved state."""
    saved = state.get("sources") or [{"length": length} for length in state["lengths"]]
    now = recipe.identity()
    for number, (old, new) in enumerate(zip(saved, now), start=1):
        both = old.get("fingerprint") and new["fingerprint"]
        if old["length"] != new["length"] or (both and old["fingerprint"] != new["fingerprint"]):
            raise TempoError(
                f"The data are not those of the saved state: source {number}, "
                f"{new['name'] or 'made on the fly'}, had {_told(old)} and has {_told(new)}. Put the old one "
                "back, or start a new run from the checkpoint's weights."
            )
    if len(saved) != len(now) or len(state["streams"]) != len(recipe.slots()):
        raise TempoError(_CHANGED)


def _told(known: Mapping) -> str:
    mark = f", fingerprint {known['fingerprint']}" if known.get("fingerprint") else ""
    return f"{known['length']} samples{mark}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _with_index(index: int, item: _Item | _Skipped) -> _Item | _Skipped:
    return dataclasses.replace(item, index=int(index)) if isinstance(item, _Item) else item


class Slot(NamedTuple):
    """What the batches of one stream have in common."""

    size: tuple[int, int]  # (height, width) of frames
    bucket: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What every shard does with samples; small, and can be pickled."""

    task: Task
    tokenizer: Tokenizer
    model: Any
    shape: Shape
    sizes: tuple[tuple[int, int], ...]  # of step t: sizes[t % len(sizes)]
    buckets: tuple[buckets.Bucket, ...]
    cycle: tuple[int, ...]  # of buckets, the next one when every size has had its turn
    micro_batches: int
    window: int
    threads: int
    weights: tuple[float, ...]
    sources: tuple[RandomAccess, ...]
    seed: int
    shards: int

    def need(self, sample: Sample) -> batch_packing.Need:
        return self.task.sample_size(sample, self.tokenizer, self.model)

    def shape_of(self, slot: Slot) -> Shape:
        """Of its batches."""
        return dataclasses.replace(self.buckets[slot.bucket].shape(self.shape), size=slot.size)

    def collate(self, samples: Sequence[Sample], slot: Slot) -> Any:
        return self.task.collate(samples, self.tokenizer, self.model, self.shape_of(slot))

    def slot(self, step: int) -> Slot:
        """That of a step; the same on every shard."""
        round_, turn = divmod(step, len(self.sizes))
        return Slot(self.sizes[turn], self.cycle[round_ % len(self.cycle)])

    def slots(self) -> list[Slot]:
        """All that there are."""
        return [
            Slot(size, number) for size in dict.fromkeys(self.sizes) for number in dict.fromkeys(self.cycle)
        ]

    def elsewhere(self, source: RandomAccess, index: int, bucket: int) -> bool:
        """Whether a sample is known to be of another bucket before it is read."""
        counts = getattr(source, "frame_counts", None) if len(self.buckets) > 1 else None
        if counts is None:
            return False
        found = buckets.bucket_of(self.task.clips_of(counts[index], self.model), self.buckets)
        return found is not None and found != bucket

    def identity(self) -> list[dict[str, Any]]:
        """What the sources are, to be compared when a run continues."""
        return [identity(source) for source in self.sources]

    def streams(self, shard: int, slot: Slot) -> list[grain.MapDataset]:
        """For each source, the shard's endless part of it."""
        result = []
        for number, source in enumerate(self.sources):
            seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
            data = grain.MapDataset.source(_Reader(source, number, slot, self))
            data = data.shuffle(seed=seed).repeat()[shard :: self.shards]
            result.append(data.map_with_index(_with_index))
        return result


def _decode(frames: Any, numbers: Sequence[int], out: np.ndarray) -> None:
    for number in numbers:
        out[number] = frames[number]


class _Patience:
    """Counts samples skipped in a row; gives up after two passes over the data, but not before 500.

    Gives up earlier, after 2000, where they are not merely of another size.
    """

    def __init__(self, limit: int, size: tuple[int, int]):
        self._limit, self._size, self._reasons = limit, size, Counter()

    def reset(self) -> None:
        self._reasons.clear()

    def skip(self, reason: str, counts: Counter) -> None:
        if reason != _ELSEWHERE:
            counts[SKIPPED + reason] += 1
        self._reasons[reason] += 1
        total = self._reasons.total()
        if total >= self._limit or total - self._reasons[_ELSEWHERE] >= _MOST_PATIENCE:
            ((reason, number),) = self._reasons.most_common(1)
            height, width = self._size
            raise TempoError(
                f"No sample with frames of {height}x{width} is usable among {total} in a row; most often "
                f"({number} of {total}) because of this: {reason}."
            )


class _Stream:
    """One shard's samples of one size, in batches."""

    def __init__(self, recipe: Recipe, shard: int, slot: Slot, map_in_threads: Callable):
        self._recipe, self._slot, self._map = recipe, slot, map_in_threads
        self._shape = recipe.shape_of(slot)
        self._maps = recipe.streams(shard, slot)
        # More than a few batches' samples would wait for nothing, and long ones are large.
        most = recipe.window if len(recipe.buckets) == 1 else 4 * self._shape.conversations
        self._most = min(recipe.window, most)
        # One thread is the caller's own: nothing is handed over. More pay where files are read and images
        # decoded; Python code, as minireel's, runs in one at a time anyway.
        threads = recipe.threads if recipe.threads > 1 else 0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        parts = [part.to_iter_dataset(options) for part in self._maps]
        self.iterator = iter(grain.IterDataset.mix(parts, weights=list(recipe.weights)))
        self._window: list[_Item] = []
        # So many samples in a row hold a whole pass over every source, wherever they begin; over small
        # sources several, as a shard has but its part of each.
        pairs = zip(recipe.sources, recipe.weights, strict=True)
        whole = max(math.ceil(len(source) * sum(recipe.weights) / weight) for source, weight in pairs)
        limit = max(2 * whole, _LEAST_PATIENCE)
        self._unread, self._unmade = _Patience(limit, slot.size), _Patience(limit, slot.size)

    def next(self, counts: Counter) -> Any:
        """The next batch; what was read, used and skipped on the way is added to `counts`."""
        while True:
            self._fill(counts)
            chosen = batch_packing.choose([item.need for item in self._window], self._shape)
            items = [self._window[position] for position in chosen]
            self._window = [item for n, item in enumerate(self._window) if n not in set(chosen)]
            made = [(item, sample) for item in items if (sample := self._develop(item.sample, counts))]
            if made:
                self._unmade.reset()
                counts.update(batch_packing.usage([item.need for item, _ in made], self._shape))
                counts["samples"] += len(made)
                return self._recipe.collate([sample for _, sample in made], self._slot)

    def _fill(self, counts: Counter) -> None:
        while len(self._window) < self._most:
            item = next(self.iterator)
            if isinstance(item, _Item):
                self._unread.reset()
                self._window.append(item)
            else:
                self._unread.skip(item.reason, counts)

    def _develop(self, sample: Sample, counts: Counter) -> Sample | None:
        """The sample with its frames in memory; None, and counted, where they cannot be made."""
        if isinstance(sample.frames, np.ndarray):
            return sample
        try:
            numbers = range(len(sample.frames))
            parts = [numbers[part :: self._recipe.threads] for part in range(self._recipe.threads)]
            frames = np.empty(sample.frames.shape, np.uint8)
            list(self._map(lambda part: _decode(sample.frames, part, frames), parts))
        except Exception as error:  # a damaged image: not found before it was decoded
            self._unmade.skip(_reason(error), counts)
            return None
        return dataclasses.replace(sample, frames=frames)

    def get_state(self) -> dict:
        return {
            "read": self.iterator.get_state(),
            "window": [[item.source, item.index] for item in self._window],
        }

    def set_state(self, state: Mapping) -> None:
        self.iterator.set_state(state["read"])
        self._window = list(self._map(lambda at: self._maps[at[0]][at[1]], state["window"]))
        if not all(isinstance(item, _Item) for item in self._window):
            raise TempoError(_CHANGED)


class _ShardIterator(grain.DatasetIterator):
    """One shard's batches, as (batch, counts, state after it as JSON)."""

    def __init__(self, recipe: Recipe, shard: int, state: Mapping | None):
        self._pool = concurrent.futures.ThreadPoolExecutor(recipe.threads) if recipe.threads > 1 else None
        mapped = self._pool.map if self._pool else map
        self._streams = {slot: _Stream(recipe, shard, slot, mapped) for slot in recipe.slots()}
        super().__init__([stream.iterator for stream in self._streams.values()])
        self._recipe, self._batches = recipe, 0
        self._identity = recipe.identity()
        if state is not None:
            self.set_state(state)

    def __next__(self) -> tuple[Any, Counter, str]:
        step = self._batches // self._recipe.micro_batches
        stream = self._streams[self._recipe.slot(step)]
        counts = Counter()
        batch = stream.next(counts)
        self._batches += 1
        return batch, counts, json.dumps(self.get_state())

    def get_state(self) -> dict:
        streams = {self._name(slot): stream.get_state() for slot, stream in self._streams.items()}
        lengths = [known["length"] for known in self._identity]
        return {"batches": self._batches, "lengths": lengths, "sources": self._identity, "streams": streams}

    def set_state(self, state: Mapping) -> None:
        check_same(state, self._recipe)
        self._batches = state["batches"]
        for slot, stream in self._streams.items():
            stream.set_state(state["streams"][self._name(slot)])

    def _name(self, slot: Slot) -> str:
        height, width = slot.size
        room = f"/{self._recipe.buckets[slot.bucket].room}" if len(self._recipe.buckets) > 1 else ""
        return f"{height}x{width}{room}"

    def close(self) -> None:
        super().close()
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)


class Shard(grain.IterDataset):
    """One shard's batches, from a state on; each comes with the state after it, so that it does not
    matter who runs ahead: reading threads, a worker process, the assembly."""

    def __init__(self, recipe: Recipe, shard: int, state: Mapping | None):
        super().__init__()
        self._arguments = recipe, shard, state

    def __iter__(self) -> _ShardIterator:
        return _ShardIterator(*self._arguments)
