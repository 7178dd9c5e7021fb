"""The interface between the service and a model; its implementations for Tempo and XComp."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tempo_jax.ata import KEEP_STRATEGIES
from tempo_jax.models.config import VideoConfig, XCompConfig
from tempo_jax.serve.store import FrameSampling
from tempo_jax.tempo.options import Options
from tempo_jax.utils import paths
from tempo_jax.video.sources import Source

Progress = Callable[[str, int, int], None]


class Model(Protocol):
    """One model on one set of devices; called from one thread at a time, but for `options`."""

    name: str
    video: VideoConfig
    sampler: Callable | None  # as of `open_video`; goes to another process, so a module's own function
    frames: FrameSampling  # the default sampling
    strategies: tuple[str, ...]
    eos_ids: Sequence[int]

    def options(self, **values: Any) -> Any:
        """The validated options of a question, with the model's defaults; raises a TempoError."""

    def prepare(self, source: Source, keep_bytes: int) -> Any:
        """The clip of a source that is not read yet, what reading takes compiled; on any thread."""

    def open(self, clip: Any, progress: Progress) -> None:
        """Reads the source of a prepared clip."""

    def held_bytes(self, clip: Any) -> int:
        """Device memory the clip holds, or will at most."""


class TempoModel:
    """`tempo_jax.Tempo` for the service."""

    sampler = None
    frames = FrameSampling()
    strategies = (*KEEP_STRATEGIES, "uniform")

    def __init__(self, tempo: Any, name: str):
        self.tempo, self.name = tempo, name
        self.video = tempo.config.video
        self.eos_ids = tempo.config.eos_ids

    def options(self, **values: Any) -> Options:
        return Options(**values)

    def prepare(self, source: Source, keep_bytes: int) -> Any:
        """Keeps the compressor's prefix where it fits, else the vision tower's output."""
        from tempo_jax.tempo.clip import Clip

        prefix = prefix_bytes(self.tempo.open(source, keep=False)) <= keep_bytes
        clip = Clip(self.tempo, source, keep=True, prefix_cache=prefix)
        clip.compile()
        return clip

    def open(self, clip: Any, progress: Progress) -> None:
        clip.encode(progress, synchronous=True)

    def held_bytes(self, clip: Any) -> int:
        return sum(clip.held_bytes.values())


def prefix_bytes(clip: Any) -> int:
    """Device memory that the compressor's keys and values of a video would take."""
    text, itemsize = clip.tempo.config.compressor.text, clip.tempo.dtype.itemsize
    tokens = sum(chunk.prompts.token_ids_SL.size for chunk in clip.layout.chunks)
    return tokens * text.num_layers * text.num_kv_heads * text.head_dim * 2 * itemsize


class XCompModel:
    """`xcomp.engine.XComp` for the service."""

    def __init__(self, xcomp: Any, name: str):
        from tempo_jax.xcomp import layout, options

        self.xcomp, self.name = xcomp, name
        self.video, self.sampler = layout.VIDEO_CONFIG, layout.sample_indices
        self.frames = FrameSampling(layout.FPS, layout.MIN_FRAMES, layout.MAX_FRAMES)
        self.strategies = tuple(options.SCORERS)
        self.eos_ids = xcomp.config.eos_ids
        self._options = options.Options

    def options(self, **values: Any) -> Any:
        return self._options(**values)

    def prepare(self, source: Source, keep_bytes: int) -> Any:
        from tempo_jax.xcomp.clip import Clip

        clip = Clip(self.xcomp, source, keep=True)
        clip.compile()
        return clip

    def open(self, clip: Any, progress: Progress) -> None:
        clip.encode(progress)

    def held_bytes(self, clip: Any) -> int:
        """Visual tokens, once for each way in which scoring may cut the video into clips."""
        return clip.frames.visual_tokens(0).nbytes * clip.frames.per_clip


def load(
    checkpoint: Path, name: str | None = None, dtype: str | None = None, sampling: str = "time"
) -> Model:
    """The model of a native checkpoint, called by its folder's name; TempoError as `tempo_jax.load`.

    sampling: of videos whose frame rate varies, see `video.Reading`.
    """
    import tempo_jax

    system, folder = tempo_jax.load(checkpoint, dtype=dtype), paths.absolute(checkpoint).name
    kind, model = ("xcomp", XCompModel) if isinstance(system.config, XCompConfig) else ("tempo", TempoModel)
    loaded = model(system, name or (folder if folder.startswith(kind) else f"{kind}-{folder}"))
    loaded.frames = dataclasses.replace(loaded.frames, sampling=sampling)
    return loaded
