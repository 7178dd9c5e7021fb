"""What the service needs of a model, and Tempo as one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tempo_jax.inference.options import Options
from tempo_jax.inference.together import Turn, answer_together
from tempo_jax.models.config import VideoConfig
from tempo_jax.video.sources import Source

Progress = Callable[[str, int, int], None]


class Model(Protocol):
    """One model on one set of devices; called from one thread only."""

    name: str
    video: VideoConfig
    eos_ids: Sequence[int]

    def options(self, **values: Any) -> Options:
        """Checked settings of one question; TempoError for what makes no sense. From any thread."""

    def open(self, source: Source, keep_bytes: int, progress: Progress) -> Any:
        """A clip that has read the source; holds what fits keep_bytes of device memory."""

    def held_bytes(self, clip: Any) -> int:
        """Device memory the clip holds."""

    def answer(self, clip: Any, turns: Sequence[Turn]) -> None:
        """Answers the turns; sets each one's answer or error."""


class TempoModel:
    """`tempo_jax.Tempo` for the service."""

    def __init__(self, tempo: Any, name: str):
        self.tempo, self.name = tempo, name
        self.video = tempo.config.video
        self.eos_ids = tempo.config.eos_ids

    def options(self, **values: Any) -> Options:
        return Options(**values)

    def open(self, source: Source, keep_bytes: int, progress: Progress) -> Any:
        """Keeps the compressor's prefix where it fits, else the vision tower's output."""
        clip = self.tempo.open(source, keep=False)
        prefix = prefix_bytes(clip) <= keep_bytes
        return self.tempo.open(source, prefix_cache=prefix, progress=progress)

    def held_bytes(self, clip: Any) -> int:
        return sum(clip.held_bytes.values())

    def answer(self, clip: Any, turns: Sequence[Turn]) -> None:
        answer_together(clip, turns)


def prefix_bytes(clip: Any) -> int:
    """Device memory that the compressor's keys and values of a video would take."""
    text, itemsize = clip.tempo.config.compressor.text, clip.tempo.dtype.itemsize
    tokens = sum(chunk.rows.token_ids_SL.size for chunk in clip.layout.chunks)
    return tokens * text.num_layers * text.num_kv_heads * text.head_dim * 2 * itemsize


def load(checkpoint: Path, name: str | None = None, dtype: str | None = None) -> TempoModel:
    """The model of a native checkpoint, called by its folder's name; TempoError as `tempo_jax.load`."""
    import tempo_jax

    return TempoModel(tempo_jax.load(checkpoint, dtype=dtype), name or f"tempo-{checkpoint.resolve().name}")
