"""The stream of training batches: grain pipelines, one per data shard, put together into global batches.

    source -> shuffle -> repeat -> [shard::shards] -> read (threads) ┐
    source -> …                                                      ┴> mix by weight -> window -> batch

The config fixes how many shards a global batch is made of, not the number of processes: process p of n
owns the contiguous shards [p*shards/n, (p+1)*shards/n), so one, two or four processes see the same
batches, and a shard's small state restores on any of them.

Frames of one step have one size, everywhere: the size of step t is batch.sizes[t % len(batch.sizes)]
(repeat a size there to have it more often), each shard has a stream of its own per size, and samples of
other sizes are left out and counted. Where batch.sizes is empty, the data must have one size only.

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
from tempo_jax.data.batch_packing import Shape
from tempo_jax.data.shard_stream import SKIPPED, Recipe, Shard
from tempo_jax.data.sources import RandomAccess, open_source
from tempo_jax.data.task import Task
from tempo_jax.errors import TempoError
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.prompts import Tokenizer

NO_SIZE = (1, 1)  # where there is no frame
_LOOKED_AT = 256  # samples of a source that does not say how long they are
_REASONS = 32  # kinds of skipped samples that are told apart
_SHARD_AHEAD, _STEPS_AHEAD = 1, 1  # batches and global batches that wait, complete, to be asked for


class _StepsIterator(grain.DatasetIterator):
    """Global batches of some shards, as (batch, counts, {shard: state after it})."""

    def __init__(self, recipe: Recipe, shards: Sequence[int], parts: Sequence[grain.DatasetIterator]):
        super().__init__(parts)
        self._recipe, self._shards, self._parts = recipe, shards, parts
        task = recipe.task
        # The axis along which shards are put together; rows' positions have their three axes first.
        self._axes = task.batch(
            **{name: PromptBatch(0, 0, 1) if name == "rows" else 0 for name in task.batch._fields}
        )
        for part in parts:
            part.start_prefetch()

    def __next__(self) -> tuple[Any, Counter, dict[int, dict]]:
        counts, states, batches = Counter(), {}, []
        for shard, part in zip(self._shards, self._parts, strict=True):
            for _ in range(self._recipe.micro_batches):
                batch, more, state = next(part)
                batches.append(_globally(batch, shard, self._recipe))
                counts.update(more)
            states[shard] = json.loads(state)
        return jax.tree.map(self._join, self._axes, *batches), counts, states

    def _join(self, axis: int, *leaves: np.ndarray) -> np.ndarray:
        """Leaves of shard 0's micro-batches, then shard 1's, …, as [micro-batches, …]."""
        micro, shape = self._recipe.micro_batches, list(leaves[0].shape)
        shape[axis] *= len(self._shards)
        out = np.empty((micro, *shape), leaves[0].dtype)
        for number in range(micro):
            np.concatenate(leaves[number::micro], axis, out=out[number])
        return out

    def get_state(self) -> dict:  # grain's prefetching asks; ours travels with the batches
        return {}

    def set_state(self, state: Mapping) -> None:
        raise NotImplementedError


def _globally(batch: Any, shard: int, recipe: Recipe) -> Any:
    """The shard's batch with indices into the memory tokens of all shards' pools."""
    if "memory_index_BL" not in batch._fields:
        return batch
    index_BL = batch.memory_index_BL
    pool = max(1, batch.frames_PFHWC.shape[0])
    offset = np.int32(shard * pool * recipe.model.memory_tokens)
    return batch._replace(memory_index_BL=np.where(index_BL >= 0, index_BL + offset, index_BL))


class _Steps(grain.IterDataset):
    """Global batches of some shards."""

    def __init__(self, recipe: Recipe, shards: Sequence[int], parts: Sequence[grain.IterDataset]):
        super().__init__(parts)
        self._recipe, self._shards = recipe, shards

    def __iter__(self) -> _StepsIterator:
        return _StepsIterator(self._recipe, self._shards, [iter(part) for part in self._parents])


class Batches:
    """This process's part of the global batches, for ever.

    `config`: seed, task, batch (shards, micro_batches, pool, row_length, conversations, length, sizes)
    and data (sources, window, workers, threads) of a training config. `shards`: those this process
    builds, of range(config.batch.shards). A batch is the task's NamedTuple of numpy arrays with leaves
    [micro_batches, len(shards) * size in one shard, ...]; memory indices point into the pool of all
    shards. `tasks`: what can be trained, by name.
    The same config gives the same batches, whatever runs where.

    Raises TempoError for sources that cannot be opened and, from `next`, where no sample is usable.
    """

    def __init__(
        self,
        config: ConfigDict,
        tokenizer: Tokenizer,
        model_config: Any,
        shards: Sequence[int],
        tasks: Mapping[str, Task],
    ):
        self._recipe = _recipe(config, tokenizer, model_config, tasks)
        self._workers = config.data.workers
        self._states: dict[int, dict | None] = dict.fromkeys(shards)
        self._counts, self._iterator = Counter(), None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
        batch, counts, self._states = next(self._iterator)
        self._counts = _added(self._counts, counts)
        return batch

    def _start(self) -> grain.DatasetIterator:
        if self._workers and not flags.FLAGS.is_parsed():  # grain reads flags of its own there
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=_SHARD_AHEAD)
        parts = [
            Shard(self._recipe, shard, state).mp_prefetch(options, worker_init_fn=_keep_off_accelerators)
            for shard, state in self._states.items()
        ]
        steps = _Steps(self._recipe, list(self._states), parts)
        return iter(grain.experimental.ThreadPrefetchIterDataset(steps, prefetch_buffer_size=_STEPS_AHEAD))

    def get_state(self) -> dict[int, dict | None]:
        """Where each shard stands after the last batch given out; small, made of JSON's types."""
        return dict(self._states)

    def set_state(self, states: Mapping[int | str, dict | None]) -> None:
        """Go on from there. `states` may hold other shards too; TempoError where one of ours is missing."""
        given = {int(shard): state for shard, state in states.items()}
        if missing := [shard for shard in self._states if shard not in given]:
            raise TempoError(f"The saved data state has no shard {missing[0]}: keep batch.shards as it was.")
        for shard in self._states:
            if given[shard] is not None:
                shard_stream.check_same(given[shard], self._recipe)
        self.close()
        self._states = {shard: given[shard] for shard in self._states}

    @property
    def stats(self) -> dict[str, Any]:
        """Since construction: `samples` used, `skipped` {reason: samples}, `waste` {kind: share}."""
        counts = self._counts
        skipped = {name.removeprefix(SKIPPED): n for name, n in counts.items() if name.startswith(SKIPPED)}
        return {"samples": counts["samples"], "skipped": skipped, "waste": batch_packing.waste(counts)}

    def close(self) -> None:
        """Stop threads and worker processes; a later `next` starts them again where they stood."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _added(total: Counter, more: Counter) -> Counter:
    """The sum, a new object as other threads may read the old; reasons to skip are limited in number."""
    total = Counter(total)
    for name, count in more.items():
        told = name in total or sum(known.startswith(SKIPPED) for known in total) < _REASONS
        total[name if told or not name.startswith(SKIPPED) else f"{SKIPPED}other reasons"] += count
    return total


def _keep_off_accelerators(worker: int, workers: int) -> None:
    jax.config.update("jax_platforms", "cpu")


def _recipe(config: ConfigDict, tokenizer: Tokenizer, model_config: Any, tasks: Mapping[str, Task]) -> Recipe:
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
    if len(rooms := buckets.buckets_of(batch)) > 1 and task.clips_of is None:
        fitting = " or ".join(name for name, row in tasks.items() if row.clips_of)
        raise TempoError(
            f"config.batch.buckets are for config.task={fitting}, not {task.name}: leave them empty."
        )
    return Recipe(
        task=task,
        tokenizer=tokenizer,
        model=model_config,
        shape=Shape(batch.pool, batch.row_length, batch.conversations, batch.length),
        sizes=_sizes(_listed(batch.get("sizes", ())), sources),
        buckets=rooms,
        cycle=_cycle(rooms, sources, weights, tokenizer, model_config, task) if len(rooms) > 1 else (0,),
        micro_batches=batch.micro_batches,
        window=data.window,
        threads=data.threads,
        weights=weights,
        sources=sources,
        seed=config.seed,
        shards=batch.shards,
    )


def _check_kinds(task: str, source: RandomAccess, tasks: Mapping[str, Task]) -> None:
    """TempoError for a prepared set in which the task finds nothing to train on."""
    counts = getattr(source, "metadata", getattr(getattr(source, "source", None), "metadata", {})).get(
        "counts", {}
    )
    kinds = {name.removeprefix("kind "): n for name, n in counts.items() if name.startswith("kind ")}
    if kinds and not set(kinds) & set(tasks[task].kinds):
        has = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        fitting = [name for name, row in tasks.items() if set(kinds) & set(row.kinds)]
        takes = f"samples of {' or '.join(tasks[task].kinds)}" if tasks[task].kinds else "no prepared sets"
        raise TempoError(
            f"{source.name} has samples of {has}, but config.task={task} takes {takes}: use a config with "
            f"the task {' or '.join(fitting)}, or other data."
        )


def _cycle(rooms, sources, weights, tokenizer: Tokenizer, model: Any, task: Task) -> tuple[int, ...]:
    """Of buckets, by what the sources hold: all of it where they say so, else some samples, evenly spread."""
    clips = []
    for source, weight in zip(sources, weights, strict=True):
        counts = getattr(source, "frame_counts", None)
        if counts is not None:
            found = [task.clips_of(count, model) for count in counts]
        else:
            found = []
            for index in np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).astype(int):
                with contextlib.suppress(Exception):  # counted where it is skipped
                    found.append(task.sample_size(source[int(index)], tokenizer, model).segments)
        clips += [(count, weight / len(found)) for count in found]
    return buckets.cycle(rooms, clips)


def _listed(sizes: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Sizes as pairs, or as --config.batch.sizes=64x64 gives them. TempoError for what is none."""
    found = []
    for size in sizes if not isinstance(sizes, str) else sizes.split(","):
        parts = size.split("x") if isinstance(size, str) else size
        try:
            height, width = (int(part) for part in parts)
        except (TypeError, ValueError) as error:
            raise TempoError(f"config.batch.sizes has {size!r}: give height and width, as 64x64.") from error
        found.append((height, width))
    return tuple(found)


def _sizes(listed: Sequence[Sequence[int]], sources: Sequence[RandomAccess]) -> tuple[tuple[int, int], ...]:
    """The frame size of each step in turn: those listed or, where none is, the only one of the data."""
    sizes = tuple((int(height), int(width)) for height, width in listed)
    known = [_counted(source) for source in sources]
    if sizes and not all(known):
        return sizes
    counts = Counter()
    for source, count in zip(sources, known, strict=True):
        counts.update(count or _size_of_all(source))
    counts = counts or Counter({NO_SIZE: 1})
    found = ", ".join(f"{height}x{width} ({n})" for (height, width), n in counts.most_common(5))
    if len(counts) > 1 and not sizes:
        raise TempoError(
            f"The data have frames of {len(counts)} sizes, height x width {found}: list those to train on in "
            "batch.sizes, or prepare the data with --sizes."
        )
    for height, width in sizes:
        if (height, width) not in counts:
            raise TempoError(f"batch.sizes lists {height}x{width}, but the data have {found}.")
    return sizes or tuple(counts)


def _counted(source: RandomAccess) -> dict[tuple[int, int], int]:
    """How many samples of each frame size a prepared data set says it has; empty for other sources."""
    counts = getattr(source, "metadata", {}).get("counts", {})
    sizes = {name.removeprefix("size "): n for name, n in counts.items() if name.startswith("size ")}
    return {tuple(map(int, size.split("x"))): n for size, n in sizes.items()}


def _size_of_all(source: RandomAccess) -> dict[tuple[int, int], int]:
    """By its first readable sample; empty for conversations in words, which go with frames of any size."""
    for index in range(len(source)):
        with contextlib.suppress(Exception):  # counted where it is skipped
            count, height, width, _ = source[index].frames.shape
            return {(height, width): len(source)} if count else {}
    raise TempoError("No sample of the data can be read: prepare them again.")
