"""Builder of minireel: reels rendered, not decoded, one example per question."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tempo_jax.data import minireel
from tempo_jax.data.builders.base import Preparing
from tempo_jax.data.minireel.reel import reel_records
from tempo_jax.data.preparation import Settings
from tempo_jax.data.records import to_example
from tempo_jax.video import real_fps, sample_indices


@dataclasses.dataclass(frozen=True)
class Preparer:
    """Index of a reel -> its examples; can be sent to another process."""

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
        examples = []
        for record in reel_records(reel, self.forms, self.kinds):
            human, *rest = record["conversations"]
            human = human | {"value": human["value"].replace("<video>", "<image>", 1)}
            examples.append(to_example(record["id"], "video", [human, *rest], frames, fps))
        return examples


class Minireel(Preparing):
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

        `kwargs`: those of Preparing. TempoError for a value out of range.
        """
        settings = settings or Settings()
        options = {"seconds": seconds, "size": size, "fps": fps}
        sampling = {"sample_fps": settings.fps, "max_frames": settings.max_frames}
        chosen = {"forms": forms, "kinds": kinds, **options, **sampling}
        next(minireel.records(split, 1, start=start, **chosen), None)  # a mistake shows before any work
        super().__init__(
            jobs=range(start, start + count),
            task=Preparer(split, tuple(forms), tuple(kinds), options | sampling, settings),
            origin={"minireel": split, "count": count, "start": start} | options | {"forms": list(forms)},
            settings=settings,
            **kwargs,
        )
