"""The stream of training batches: one grain pipeline per data shard, assembled into global batches.

    source -> shuffle -> repeat -> [shard::shards] -> read (threads) ┐
    source -> …                                                      ┴> mix by weight -> window -> batch

The config fixes the number of data shards of a global batch, not the number of processes: process p of n
builds the contiguous shards [p*shards/n, (p+1)*shards/n), so one, two or four processes see the same batches,
and the small state of a shard can be restored on any of them.

All frames of a step have one size: step t uses `sizes[t % len(sizes)]` of `sizes = batch.frame_sizes` (repeat
a size there to use it more often). Each shard has one stream per size, and samples of other sizes are skipped
and counted. Where batch.frame_sizes is empty, the data must have one size only.

A sample that cannot be read, or never fits, is skipped and counted with its reason.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from tempo_jax.data import batch_packing, buckets, shard_stream
from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.shard_stream import SKIPPED, PipelineSpec, ShardDataset
from tempo_jax.data.sources import RandomAccess, open_source
from tempo_jax.data.task import Task
from tempo_jax.errors import TempoError
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.prompts import Tokenizer

NO_SIZE = (1, 1)  # frame size of data without frames
_NUM_PROBED_SAMPLES = 256  # samples probed in a source that does not record their lengths
_MAX_REASONS = 32  # distinct reasons for skipping that are counted
_SHARD_AHEAD, _STEPS_AHEAD = 1, 1  # prefetched batches of a shard, and global batches


class _StepsIterator(grain.DatasetIterator):
    """Iterates over (global batch of some shards, counts, {shard: state after it})."""

    def __init__(self, spec: PipelineSpec, shards: Sequence[int], parts: Sequence[grain.DatasetIterator]):
        super().__init__(parts)
        self._spec, self._shards, self._parts = spec, shards, parts
        task = spec.task
        # The axis along which shards are concatenated; M-RoPE positions have their three axes first.
        self._axes = task.batch(
            **{name: PromptBatch(0, 0, 1) if name == "rows" else 0 for name in task.batch._fields}
        )
        for part in parts:
            part.start_prefetch()

    def __next__(self) -> tuple[Any, Counter, dict[int, dict]]:
        counts, states, batches = Counter(), {}, []
        for shard, part in zip(self._shards, self._parts, strict=True):
            for _ in range(self._spec.micro_batches):
                batch, shard_counts, state = next(part)
                batches.append(_offset_indices(batch, shard, self._spec))
                counts.update(shard_counts)
            states[shard] = json.loads(state)
        return jax.tree.map(self._join, self._axes, *batches), counts, states

    def _join(self, axis: int, *leaves: np.ndarray) -> np.ndarray:
        """Concatenates the micro-batches of all shards to [micro-batches, …]."""
        micro, shape = self._spec.micro_batches, list(leaves[0].shape)
        shape[axis] *= len(self._shards)
        out = np.empty((micro, *shape), leaves[0].dtype)
        for number in range(micro):
            np.concatenate(leaves[number::micro], axis, out=out[number])
        return out

    def get_state(self) -> dict:  # called by grain's prefetching; the state comes with each batch
        return {}

    def set_state(self, state: Mapping) -> None:
        raise NotImplementedError


def _offset_indices(batch: Any, shard: int, spec: PipelineSpec) -> Any:
    """Offsets the memory indices of a shard's batch to the segment buffer of all shards."""
    if "memory_index_BL" not in batch._fields:
        return batch
    index_BL = batch.memory_index_BL
    pool = max(1, batch.frames_PFHWC.shape[0])
    offset = np.int32(shard * pool * spec.model.memory_tokens)
    return batch._replace(memory_index_BL=np.where(index_BL >= 0, index_BL + offset, index_BL))


class _Steps(grain.IterDataset):
    """Global batches of some shards."""

    def __init__(self, spec: PipelineSpec, shards: Sequence[int], parts: Sequence[grain.IterDataset]):
        super().__init__(parts)
        self._spec, self._shards = spec, shards

    def __iter__(self) -> _StepsIterator:
        return _StepsIterator(self._spec, self._shards, [iter(part) for part in self._parents])


class TrainLoader:
    """This process's part of the global batches, an endless iterator.

    A batch is the task's NamedTuple of numpy arrays with leaves [micro_batches, len(shards) * rows, ...];
    memory indices point into the segment buffer of all shards. The same config gives the same batches
    on any number of processes.

    Args:
      config: `seed`, `task`, `batch` and `data` of a training config.
      tokenizer: The model's tokenizer.
      model_config: The model's config.
      shards: Data shards that this process builds, of range(config.batch.shards).
      tasks: The tasks by name.

    Raises:
      TempoError: A source cannot be opened or, from `next`, no sample is usable.
    """

    def __init__(
        self,
        config: ConfigDict,
        tokenizer: Tokenizer,
        model_config: Any,
        shards: Sequence[int],
        tasks: Mapping[str, Task],
    ):
        self._spec = _pipeline_spec(config, tokenizer, model_config, tasks)
        self._workers = config.data.workers
        self._states: dict[int, dict | None] = dict.fromkeys(shards)
        self._counts, self._iterator = Counter(), None

    def __iter__(self) -> "TrainLoader":
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
        batch, counts, self._states = next(self._iterator)
        self._counts = _add_counts(self._counts, counts)
        return batch

    def _start(self) -> grain.DatasetIterator:
        if self._workers and not flags.FLAGS.is_parsed():  # grain reads flags of its own there
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=_SHARD_AHEAD)
        parts = [
            ShardDataset(self._spec, shard, state).mp_prefetch(options, worker_init_fn=_keep_off_accelerators)
            for shard, state in self._states.items()
        ]
        steps = _Steps(self._spec, list(self._states), parts)
        return iter(grain.experimental.ThreadPrefetchIterDataset(steps, prefetch_buffer_size=_STEPS_AHEAD))

    def get_state(self) -> dict[int, dict | None]:
        """Returns the state of each shard after the last batch, as JSON values."""
        return dict(self._states)

    def set_state(self, states: Mapping[int | str, dict | None]) -> None:
        """Resumes from saved states, which may include other shards.

        Raises:
          TempoError: The state of a shard is missing, or is of other data.
        """
        saved = {int(shard): state for shard, state in states.items()}
        if missing := [shard for shard in self._states if shard not in saved]:
            raise TempoError(f"The saved data state has no shard {missing[0]}: keep batch.shards as it was.")
        for shard in self._states:
            if saved[shard] is not None:
                shard_stream.check_same_sources(saved[shard], self._spec)
        self.close()
        self._states = {shard: saved[shard] for shard in self._states}

    @property
    def stats(self) -> dict[str, Any]:
        """Since construction: `samples` used, `skipped` {reason: samples}, `waste` {kind: padding}."""
        counts = self._counts
        skipped = {name.removeprefix(SKIPPED): n for name, n in counts.items() if name.startswith(SKIPPED)}
        return {
            "samples": counts["samples"],
            "skipped": skipped,
            "waste": batch_packing.padding_fraction(counts),
        }

    def close(self) -> None:
        """Stops threads and worker processes; a later `next` restarts them from the current state."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _add_counts(total: Counter, counts: Counter) -> Counter:
    """Returns the sum as a new Counter, since other threads read the old one; limits the reasons."""
    total = Counter(total)
    for name, count in counts.items():
        is_listed = name in total or sum(known.startswith(SKIPPED) for known in total) < _MAX_REASONS
        total[name if is_listed or not name.startswith(SKIPPED) else f"{SKIPPED}other reasons"] += count
    return total


def _keep_off_accelerators(worker: int, workers: int) -> None:
    jax.config.update("jax_platforms", "cpu")


def _pipeline_spec(
    config: ConfigDict, tokenizer: Tokenizer, model_config: Any, tasks: Mapping[str, Task]
) -> PipelineSpec:
    batch, data = config.batch, config.data
    if not data.sources:
        raise TempoError("The config names no data: set data.sources.")
    sources = tuple(open_source(source) for source in data.sources)
    for source in sources:
        _check_kinds(config.task, source, tasks)
    weights = tuple(float(source.get("weight", 1.0)) for source in data.sources)
    if min(weights) <= 0:
        raise TempoError(f"A data source has weight {min(weights):g}: leave it out or give it one above 0.")
    if data.workers not in (0, 1):
        raise TempoError(
            f"data.workers is {data.workers}, but a shard has 1 worker process or, with 0, none."
        )
    task = tasks[config.task]
    if len(rooms := buckets.make_buckets(batch)) > 1 and task.clips_of is None:
        fitting = " or ".join(name for name, row in tasks.items() if row.clips_of)
        raise TempoError(
            f"config.batch.buckets are for config.task={fitting}, not {task.name}: leave them empty."
        )
    return PipelineSpec(
        task=task,
        tokenizer=tokenizer,
        model=model_config,
        shape=BatchShape(batch.segments, batch.compressor_length, batch.sequences, batch.sequence_length),
        sizes=_frame_sizes(_parse_sizes(batch.get("frame_sizes", ())), sources),
        buckets=rooms,
        cycle=_bucket_cycle(rooms, sources, weights, tokenizer, model_config, task)
        if len(rooms) > 1
        else (0,),
        micro_batches=batch.micro_batches,
        window=data.packing_window,
        threads=data.threads,
        weights=weights,
        sources=sources,
        seed=config.seed,
        shards=batch.shards,
    )


def _check_kinds(task: str, source: RandomAccess, tasks: Mapping[str, Task]) -> None:
    """Raises TempoError for a prepared set without samples that the task can train on."""
    counts = getattr(source, "metadata", getattr(getattr(source, "source", None), "metadata", {})).get(
        "counts", {}
    )
    kinds = {name.removeprefix("kind "): n for name, n in counts.items() if name.startswith("kind ")}
    if kinds and not set(kinds) & set(tasks[task].kinds):
        present = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        fitting = [name for name, row in tasks.items() if set(kinds) & set(row.kinds)]
        takes = f"samples of {' or '.join(tasks[task].kinds)}" if tasks[task].kinds else "no prepared sets"
        raise TempoError(
            f"{source.name} has samples of {present}, but config.task={task} takes {takes}: use a config "
            f"with the task {' or '.join(fitting)}, or other data."
        )


def _bucket_cycle(rooms, sources, weights, tokenizer: Tokenizer, model: Any, task: Task) -> tuple[int, ...]:
    """Makes the cycle of buckets from the lengths that sources record, or from evenly spaced samples."""
    clips = []
    for source, weight in zip(sources, weights, strict=True):
        counts = getattr(source, "frame_counts", None)
        if counts is not None:
            lengths = [task.clips_of(count, model) for count in counts]
        else:
            lengths = []
            for index in np.linspace(0, len(source) - 1, min(len(source), _NUM_PROBED_SAMPLES)).astype(int):
                with contextlib.suppress(Exception):  # counted when the stream skips it
                    lengths.append(task.sample_size(source[int(index)], tokenizer, model).segments)
        clips += [(count, weight / len(lengths)) for count in lengths]
    return buckets.cycle(rooms, clips)


def _parse_sizes(sizes: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Parses frame sizes, given as pairs or as --config.batch.frame_sizes=64x64."""
    pairs = []
    for size in sizes if not isinstance(sizes, str) else sizes.split(","):
        parts = size.split("x") if isinstance(size, str) else size
        try:
            height, width = (int(part) for part in parts)
        except (TypeError, ValueError) as error:
            raise TempoError(
                f"config.batch.frame_sizes has {size!r}: give height and width, as 64x64."
            ) from error
        pairs.append((height, width))
    return tuple(pairs)


def _frame_sizes(
    listed: Sequence[Sequence[int]], sources: Sequence[RandomAccess]
) -> tuple[tuple[int, int], ...]:
    """Returns the frame size of each step in turn: those listed, else the only one of the data."""
    sizes = tuple((int(height), int(width)) for height, width in listed)
    known = [_recorded_sizes(source) for source in sources]
    if sizes and not all(known):
        return sizes
    counts = Counter()
    for source, count in zip(sources, known, strict=True):
        counts.update(count or _probe_size(source))
    counts = counts or Counter({NO_SIZE: 1})
    listed_sizes = ", ".join(f"{height}x{width} ({n})" for (height, width), n in counts.most_common(5))
    if len(counts) > 1 and not sizes:
        raise TempoError(
            f"The data have frames of {len(counts)} sizes, height x width {listed_sizes}: list those to "
            "train on in batch.frame_sizes, or prepare the data with --sizes."
        )
    for height, width in sizes:
        if (height, width) not in counts:
            raise TempoError(f"batch.frame_sizes lists {height}x{width}, but the data have {listed_sizes}.")
    return sizes or tuple(counts)


def _recorded_sizes(source: RandomAccess) -> dict[tuple[int, int], int]:
    """Returns {frame size: samples} as a prepared data set records it; empty for other sources."""
    counts = getattr(source, "metadata", {}).get("counts", {})
    sizes = {name.removeprefix("size "): n for name, n in counts.items() if name.startswith("size ")}
    return {tuple(map(int, size.split("x"))): n for size, n in sizes.items()}


def _probe_size(source: RandomAccess) -> dict[tuple[int, int], int]:
    """Returns the frame size of the first readable sample; empty for text-only conversations."""
    for index in range(len(source)):
        with contextlib.suppress(Exception):  # counted when the stream skips it
            count, height, width, _ = source[index].frames.shape
            return {(height, width): len(source)} if count else {}
    raise TempoError("No sample of the data can be read: prepare them again.")
