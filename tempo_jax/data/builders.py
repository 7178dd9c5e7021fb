"""What can be prepared: `Llava`, data sets as they lie on disk, and `Minireel`, made-up videos.

    text = prepare.prepare(lambda: Llava(source="data.jsonl", media="media"), "prepared", workers=8)

`tempo_jax.data.prepare` is the command around them; `tempo_jax.data.records.open_prepared` reads.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tempo_jax.data import examples, minireel, readers
from tempo_jax.data.minireel.reel import reel_records
from tempo_jax.data.preparation import Limit, Settings, Skipped
from tempo_jax.data.records import FORMAT, to_example
from tempo_jax.video import real_fps, sample_indices

# Few enough files that a reader can keep all of them open; many enough to distribute them among hosts, and to
# lose little with one that was interrupted.
JOBS_PER_SHARD, MAX_SHARDS = 16, 512

Results = list[dict[str, Any] | Skipped]


class PreparedBuilder:
    """Jobs, the task that makes examples of one, and the shards that the jobs belong to.

    The shard of a job depends only on the number of jobs: the same source always gives the same files,
    whichever processes write them.
    """

    def __init__(
        self,
        *,
        jobs: Sequence[Any],
        task: Callable[[Any], Results],
        origin: dict[str, Any],
        settings: Settings,
        limit: Limit | None = None,
    ):
        """Makes the builder.

        Args:
          jobs: Arguments of `task`; both are pickled for worker processes.
          task: Function from a job to its examples and skipped samples.
          origin: Where the set comes from, for its metadata.
          settings: How samples are prepared.
          limit: Limit on the length of samples.
        """
        self.jobs, self.task, self.limit = jobs, task, limit
        self.name = type(self).__name__.lower()
        self.metadata = {"format": FORMAT, "origin": origin, "settings": dataclasses.asdict(settings)}

    def shards(self) -> list[range]:
        """Returns the indices of the jobs of each shard."""
        count = len(self.jobs)
        shards = min(MAX_SHARDS, -(-count // JOBS_PER_SHARD))
        ends = [count * (i + 1) // shards for i in range(shards)]
        return [range(start, end) for start, end in zip([0, *ends], ends)]

    def identity(self) -> str:
        """Returns a digest of what is prepared, independent of where source and media are mounted."""
        digest = hashlib.sha256(json.dumps(self.metadata, sort_keys=True).encode())
        limit = None if self.limit is None else (self.limit.most, self.limit.tokenizer is not None)
        digest.update(json.dumps([limit, [len(shard) for shard in self.shards()]]).encode())
        for job in self.jobs:
            digest.update(_identify(job))
        return digest.hexdigest()[:16]


def _identify(job: Any) -> bytes:
    """Returns what identifies a job, without the paths of its files."""
    where, content = getattr(job, "where", ""), getattr(job, "content", job)
    if hasattr(content, "load"):  # a row of a file, read when it is needed
        return f"{where}\0".encode()
    if isinstance(content, bytes):
        return content
    if isinstance(content, str | int):
        return f"{where}\0{content}\0".encode("utf-8", "surrogatepass")
    return f"{where}\0{json.dumps(content, sort_keys=True, default=lambda x: type(x).__name__)}\0".encode()


class Llava(PreparedBuilder):
    """Records of any format (tempo_jax.data.readers) with their images and videos."""

    def __init__(
        self,
        *,
        source: str | os.PathLike,
        media: str | os.PathLike | None = None,
        settings: Settings | None = None,
        form: str = readers.AUTO,
        **kwargs: Any,
    ):
        """`source`: a file or folder of readers.read, in the format `form`.

        `media`: the folder its names are relative to (default: its own).
        `kwargs`: those of PreparedBuilder. TempoError where a file or folder is missing.
        """
        source, settings = Path(source), settings or Settings()
        data = readers.read(source, media, form)
        task = examples.Preparer(data.sources, settings)
        origin = {"source": source.name, "format": form}
        super().__init__(jobs=data.entries, task=task, origin=origin, settings=settings, **kwargs)


@dataclasses.dataclass(frozen=True)
class ReelPreparer:
    """Converts the index of a reel to its examples; picklable."""

    split: str
    forms: tuple[str, ...]
    kinds: tuple[str, ...]
    options: dict[str, Any]  # of minireel.make
    settings: Settings

    def __call__(self, index: int) -> list[dict[str, Any]]:
        settings = self.settings
        reel = minireel.make(self.split, index, **self.options)
        total, rate = reel.spec.num_frames, reel.spec.fps
        indices = sample_indices(total, rate, settings.fps, settings.min_frames, settings.max_frames)
        frames = settings.encode(minireel.render(reel.spec, int(i)) for i in indices)
        fps = real_fps(len(indices), total, rate, settings.fps)
        results = []
        for record in reel_records(reel, self.forms, self.kinds):
            human, *rest = record["conversations"]
            human = human | {"value": human["value"].replace("<video>", "<image>", 1)}
            results.append(to_example(record["id"], "video", [human, *rest], frames, fps))
        return results


class Minireel(PreparedBuilder):
    """Questions about `count` reels of a split; every question has its reel's frames with it."""

    def __init__(
        self,
        *,
        split: str,
        count: int,
        start: int = 0,
        seconds: float | None = None,
        size: int = 96,
        fps: float = 2.0,
        forms: Sequence[str] = ("choice",),
        kinds: Sequence[str] = minireel.KINDS,
        settings: Settings | None = None,
        **kwargs: Any,
    ):
        """`fps`: of the recordings, `start`: index of the first; otherwise as in minireel.records.

        `kwargs`: those of PreparedBuilder. TempoError for a value out of range.
        """
        settings = settings or Settings()
        options = {"seconds": seconds, "size": size, "fps": fps}
        sampling = {"sample_fps": settings.fps, "max_frames": settings.max_frames}
        chosen = {"forms": forms, "kinds": kinds, **options, **sampling}
        next(
            minireel.records(split, 1, start=start, **chosen), None
        )  # invalid values are reported before any work
        super().__init__(
            jobs=range(start, start + count),
            task=ReelPreparer(split, tuple(forms), tuple(kinds), options | sampling, settings),
            origin={"minireel": split, "count": count, "start": start} | options | {"forms": list(forms)},
            settings=settings,
            **kwargs,
        )
