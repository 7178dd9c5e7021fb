"""The interface of a run to the systems: frame sampling, strategies and options of each."""

from typing import Any

from ml_collections import ConfigDict

from tempo_jax.evaluation import decode_workers, model
from tempo_jax.evaluation.settings import AXES, NO_COMPRESSION, Setting
from tempo_jax.tempo.options import PRUNE_STRATEGIES, STRATEGIES, Options
from tempo_jax.video import Reading, Source
from tempo_jax.xcomp import options as xcomp
from tempo_jax.xcomp.layout import VIDEO_CONFIG, sample_indices


def _reading(config: ConfigDict) -> Reading:
    """Returns how files are read; published numbers are of frames as stored, sampled by index."""
    released = config.sampling == "index"
    return Reading(sampling=config.sampling, exif=not released, square_pixels=not released)


class TempoSystem:
    """`tempo_jax.Tempo` as a config describes it; loads the checkpoint."""

    strategies = (*STRATEGIES, NO_COMPRESSION)
    axes = AXES  # axes of the grid that it supports

    def __init__(self, config: ConfigDict):
        self.config, self.model = config, model.load(config)

    def sampling(self, max_frames: int) -> decode_workers.FrameSampling:
        config = self.config
        limits = (config.fps, config.min_frames, max_frames)
        return decode_workers.FrameSampling(*limits, self.model.config.video, reading=_reading(config))

    def open(self, source: Source) -> Any:
        """Returns a clip that has encoded the source."""
        prefix, batch = self.config.video_cache == "prefix", self.config.decode_batch
        return self.model.open(source, keep=True, prefix_cache=prefix, questions=batch)

    def options(self, setting: Setting, new_tokens: int) -> Options:
        drop = {"drop_ratio": self.config.drop_ratio} if setting.strategy in PRUNE_STRATEGIES else {}
        return Options(**setting.options(), **drop, max_new_tokens=new_tokens, seed=self.config.seed)


class XCompSystem:
    """`xcomp.engine.XComp`: budgets are visual tokens of whole frames, segments are frames."""

    strategies = (*xcomp.SCORERS, NO_COMPRESSION)
    axes = ("max_frames", "strategy", "budget")

    def __init__(self, config: ConfigDict):
        self.config, self.model = config, model.load(config)

    def sampling(self, max_frames: int) -> decode_workers.FrameSampling:
        config = self.config
        limits = (config.fps, config.min_frames, max_frames)
        return decode_workers.FrameSampling(*limits, VIDEO_CONFIG, sample_indices, _reading(config))

    def open(self, source: Source) -> Any:
        """Returns a clip that has encoded the source."""
        limits = {"min_frames": self.config.min_frames, "repeat_short": self.config.xcomp.repeat_short}
        return self.model.open(source, **limits)

    def options(self, setting: Setting, new_tokens: int) -> xcomp.Options:
        settings = self.config.xcomp
        options = setting.options()
        for name in set(AXES) - set(self.axes):
            options.pop(name, None)
        return xcomp.Options(
            **options,
            max_new_tokens=new_tokens,
            seed=self.config.seed,
            repeats=settings.repeats,
            causal_scoring=settings.causal_scoring,
            query_skip=None if settings.query_skip < 0 else settings.query_skip,
            repetition_penalty=settings.repetition_penalty,
        )


SYSTEMS = {"tempo": TempoSystem, "xcomp": XCompSystem}
