"""One data shard: an endless stream of batches from its part of the sources.

Packing needs the sizes of samples, not their pixels: the packing window holds samples with their frames still
encoded (or not yet rendered), and frames are decoded when their batch is made. The state of a shard, JSON:

    {"batches": batches so far, "lengths": [samples of each source], "sources": [source_identity of each],
     "streams": {"HEIGHTxWIDTH[/clips]": {"read": grain's state, "window": [[source, index], ...]}}}

A restored shard reads the samples of its windows again.
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
from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.samples import Sample
from tempo_jax.data.sources import RandomAccess
from tempo_jax.data.task import Task
from tempo_jax.errors import TempoError
from tempo_jax.prompts import Tokenizer

SKIPPED = "skipped: "  # prefix of the names of counts of skipped samples
_MIN_SKIP_LIMIT = 500  # consecutive samples, however small the sources are
_MAX_UNUSABLE_IN_A_ROW = 2000  # samples: generated data has no end that would stop the search
_CHANGED = "The data are not those of the saved state: start a new run from the checkpoint's weights."
_OTHER_SIZE = "of another size or length bucket"  # used by the stream of that size and bucket


@dataclasses.dataclass(frozen=True)
class _UsableSample:
    """A usable sample and its origin, by which it can be read again."""

    sample: Sample
    need: batch_packing.SampleSize
    source: int
    index: int  # in the shard's endless stream of this source


@dataclasses.dataclass(frozen=True)
class _SkippedSample:
    """A sample that is not used, and why."""

    reason: str


SampleResult = _UsableSample | _SkippedSample  # what reading a sample gives


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A source as grain reads it: every element is a SampleResult, whose index is set later."""

    source: RandomAccess
    number: int
    slot: "StreamKey"
    spec: "PipelineSpec"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> SampleResult:
        spec = self.spec
        try:
            if spec.is_other_bucket(self.source, index, self.slot.bucket):
                return _SkippedSample(_OTHER_SIZE)  # without reading it
            sample = self.source[index]
            if sample is None:
                return _SkippedSample("the source has none there")
            need = spec.need(sample)
            # A sample without frames fits any size: the stream of the first one uses it.
            any_size = not need.segments and not need.exclusive_row
            size = spec.sizes[0] if any_size else tuple(sample.frames.shape[1:3])
            if size != self.slot.size:
                return _SkippedSample(_OTHER_SIZE if size in spec.sizes else f"frames of {size[0]}x{size[1]}")
        except Exception as error:  # any error of a damaged record: never fatal
            return _SkippedSample(_reason(error))
        if reason := batch_packing.capacity_problem(need, spec.buckets[-1].shape(spec.shape)):
            return _SkippedSample(reason)
        if buckets.pick_bucket(need.segments, spec.buckets) != self.slot.bucket:
            return _SkippedSample(_OTHER_SIZE)
        return _UsableSample(sample, need, self.number, -1)


def source_identity(source: RandomAccess) -> dict[str, Any]:
    """Returns {"length", "name", "fingerprint"}; generated sources have no fingerprint."""
    names = {name: str(getattr(source, name, "")) for name in ("name", "fingerprint")}
    return {"length": len(source)} | names


def check_same_sources(state: Mapping, spec: "PipelineSpec") -> None:
    """Raises a TempoError that names the source that differs from a saved state."""
    saved = state.get("sources") or [{"length": length} for length in state["lengths"]]
    now = spec.identity()
    for number, (old, new) in enumerate(zip(saved, now), start=1):
        both = old.get("fingerprint") and new["fingerprint"]
        if old["length"] != new["length"] or (both and old["fingerprint"] != new["fingerprint"]):
            raise TempoError(
                f"The data are not those of the saved state: source {number}, "
                f"{new['name'] or 'generated'}, had {_describe_source(old)} and has {_describe_source(new)}. "
                "Put the old one back, or start a new run from the checkpoint's weights."
            )
    if len(saved) != len(now) or len(state["streams"]) != len(spec.slots()):
        raise TempoError(_CHANGED)


def _describe_source(known: Mapping) -> str:
    mark = f", fingerprint {known['fingerprint']}" if known.get("fingerprint") else ""
    return f"{known['length']} samples{mark}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _with_index(index: int, item: SampleResult) -> SampleResult:
    return dataclasses.replace(item, index=int(index)) if isinstance(item, _UsableSample) else item


class StreamKey(NamedTuple):
    """What the batches of one stream share: frame size and length bucket."""

    size: tuple[int, int]  # (height, width) of frames
    bucket: int = 0


@dataclasses.dataclass(frozen=True)
class PipelineSpec:
    """What every shard does with samples; small, and picklable."""

    task: Task
    tokenizer: Tokenizer
    model: Any
    shape: BatchShape
    sizes: tuple[tuple[int, int], ...]  # frame sizes (height, width): step t uses sizes[t % len(sizes)]
    buckets: tuple[buckets.Bucket, ...]
    cycle: tuple[int, ...]  # of buckets, advanced after a round of all sizes
    micro_batches: int
    window: int
    threads: int
    weights: tuple[float, ...]
    sources: tuple[RandomAccess, ...]
    seed: int
    shards: int

    def need(self, sample: Sample) -> batch_packing.SampleSize:
        return self.task.sample_size(sample, self.tokenizer, self.model)

    def shape_of(self, slot: StreamKey) -> BatchShape:
        """Returns the shape of a stream's batches."""
        return dataclasses.replace(self.buckets[slot.bucket].shape(self.shape), size=slot.size)

    def collate(self, samples: Sequence[Sample], slot: StreamKey) -> Any:
        return self.task.collate(samples, self.tokenizer, self.model, self.shape_of(slot))

    def slot(self, step: int) -> StreamKey:
        """Returns the stream of a step, the same on every shard."""
        round_, turn = divmod(step, len(self.sizes))
        return StreamKey(self.sizes[turn], self.cycle[round_ % len(self.cycle)])

    def slots(self) -> list[StreamKey]:
        """Returns all streams."""
        return [
            StreamKey(size, number)
            for size in dict.fromkeys(self.sizes)
            for number in dict.fromkeys(self.cycle)
        ]

    def is_other_bucket(self, source: RandomAccess, index: int, bucket: int) -> bool:
        """Returns whether a sample is known to be of another bucket before it is read."""
        counts = getattr(source, "frame_counts", None) if len(self.buckets) > 1 else None
        if counts is None:
            return False
        found = buckets.pick_bucket(self.task.clips_of(counts[index], self.model), self.buckets)
        return found is not None and found != bucket

    def identity(self) -> list[dict[str, Any]]:
        """Returns the identity of the sources, which is compared when a run is resumed."""
        return [source_identity(source) for source in self.sources]

    def streams(self, shard: int, slot: StreamKey) -> list[grain.MapDataset]:
        """For each source, the shard's endless part of it."""
        result = []
        for number, source in enumerate(self.sources):
            seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
            data = grain.MapDataset.source(_Reader(source, number, slot, self))
            data = data.shuffle(seed=seed).repeat()[shard :: self.shards]
            result.append(data.map_with_index(_with_index))
        return result


def _decode_into(frames: Any, numbers: Sequence[int], out: np.ndarray) -> None:
    for number in numbers:
        out[number] = frames[number]


class _SkipLimit:
    """Limits consecutive skipped samples: two passes over the data, but at least _MIN_SKIP_LIMIT.

    Of samples that are skipped for another reason than their size, _MAX_UNUSABLE_IN_A_ROW are enough.
    """

    def __init__(self, limit: int, size: tuple[int, int]):
        self._limit, self._size, self._reasons = limit, size, Counter()

    def reset(self) -> None:
        self._reasons.clear()

    def skip(self, reason: str, counts: Counter) -> None:
        if reason != _OTHER_SIZE:
            counts[SKIPPED + reason] += 1
        self._reasons[reason] += 1
        total = self._reasons.total()
        if total >= self._limit or total - self._reasons[_OTHER_SIZE] >= _MAX_UNUSABLE_IN_A_ROW:
            ((reason, number),) = self._reasons.most_common(1)
            height, width = self._size
            raise TempoError(
                f"No sample with frames of {height}x{width} is usable among {total} in a row; most often "
                f"({number} of {total}) because of this: {reason}."
            )


class _Stream:
    """The batches of one shard, frame size and bucket."""

    def __init__(self, spec: PipelineSpec, shard: int, slot: StreamKey, map_in_threads: Callable):
        self._spec, self._slot, self._map = spec, slot, map_in_threads
        self._shape = spec.shape_of(slot)
        self._maps = spec.streams(shard, slot)
        # With buckets, samples of a few batches are enough, and long ones are large.
        size = spec.window if len(spec.buckets) == 1 else 4 * self._shape.sequences
        self._window_size = min(spec.window, size)
        # With one thread, the caller reads. More pay off where files are read and images decoded; Python code
        # such as minireel's holds the GIL.
        threads = spec.threads if spec.threads > 1 else 0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        parts = [part.to_iter_dataset(options) for part in self._maps]
        self.iterator = iter(grain.IterDataset.mix(parts, weights=list(spec.weights)))
        self._window: list[_UsableSample] = []
        # This many consecutive samples contain a whole pass over every source, wherever they start; several
        # passes over small sources, of which a shard has only a part.
        pairs = zip(spec.sources, spec.weights, strict=True)
        whole = max(math.ceil(len(source) * sum(spec.weights) / weight) for source, weight in pairs)
        limit = max(2 * whole, _MIN_SKIP_LIMIT)
        self._read_limit, self._decode_limit = _SkipLimit(limit, slot.size), _SkipLimit(limit, slot.size)

    def next(self, counts: Counter) -> Any:
        """Returns the next batch, and adds what was used and skipped to `counts`."""
        while True:
            self._fill(counts)
            chosen = batch_packing.select_samples([item.need for item in self._window], self._shape)
            items = [self._window[position] for position in chosen]
            self._window = [item for n, item in enumerate(self._window) if n not in set(chosen)]
            made = [(item, sample) for item in items if (sample := self._decode_frames(item.sample, counts))]
            if made:
                self._decode_limit.reset()
                counts.update(batch_packing.occupancy([item.need for item, _ in made], self._shape))
                counts["samples"] += len(made)
                return self._spec.collate([sample for _, sample in made], self._slot)

    def _fill(self, counts: Counter) -> None:
        while len(self._window) < self._window_size:
            item = next(self.iterator)
            if isinstance(item, _UsableSample):
                self._read_limit.reset()
                self._window.append(item)
            else:
                self._read_limit.skip(item.reason, counts)

    def _decode_frames(self, sample: Sample, counts: Counter) -> Sample | None:
        """Returns the sample with its frames in memory, or None, counted, where they cannot be decoded."""
        if isinstance(sample.frames, np.ndarray):
            return sample
        try:
            numbers = range(len(sample.frames))
            parts = [numbers[part :: self._spec.threads] for part in range(self._spec.threads)]
            frames = np.empty(sample.frames.shape, np.uint8)
            list(self._map(lambda part: _decode_into(sample.frames, part, frames), parts))
        except Exception as error:  # a damaged image, which only decoding shows
            self._decode_limit.skip(_reason(error), counts)
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
        if not all(isinstance(item, _UsableSample) for item in self._window):
            raise TempoError(_CHANGED)


class _ShardIterator(grain.DatasetIterator):
    """Iterates over one shard's (batch, counts, state after it as JSON)."""

    def __init__(self, spec: PipelineSpec, shard: int, state: Mapping | None):
        self._pool = concurrent.futures.ThreadPoolExecutor(spec.threads) if spec.threads > 1 else None
        mapped = self._pool.map if self._pool else map
        self._streams = {slot: _Stream(spec, shard, slot, mapped) for slot in spec.slots()}
        super().__init__([stream.iterator for stream in self._streams.values()])
        self._spec, self._batches = spec, 0
        self._identity = spec.identity()
        if state is not None:
            self.set_state(state)

    def __next__(self) -> tuple[Any, Counter, str]:
        step = self._batches // self._spec.micro_batches
        stream = self._streams[self._spec.slot(step)]
        counts = Counter()
        batch = stream.next(counts)
        self._batches += 1
        return batch, counts, json.dumps(self.get_state())

    def get_state(self) -> dict:
        streams = {self._name(slot): stream.get_state() for slot, stream in self._streams.items()}
        lengths = [known["length"] for known in self._identity]
        return {"batches": self._batches, "lengths": lengths, "sources": self._identity, "streams": streams}

    def set_state(self, state: Mapping) -> None:
        check_same_sources(state, self._spec)
        self._batches = state["batches"]
        for slot, stream in self._streams.items():
            stream.set_state(state["streams"][self._name(slot)])

    def _name(self, slot: StreamKey) -> str:
        height, width = slot.size
        room = (
            f"/{self._spec.buckets[slot.bucket].max_sample_segments}" if len(self._spec.buckets) > 1 else ""
        )
        return f"{height}x{width}{room}"

    def close(self) -> None:
        super().close()
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)


class ShardDataset(grain.IterDataset):
    """One shard's batches, starting from a state.

    Each batch comes with the state after it, so that prefetching threads and processes do not matter.
    """

    def __init__(self, spec: PipelineSpec, shard: int, state: Mapping | None):
        super().__init__()
        self._arguments = spec, shard, state

    def __iter__(self) -> _ShardIterator:
        return _ShardIterator(*self._arguments)
