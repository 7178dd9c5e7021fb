"""What a run needs of a system: which prompts, strategies and frames are its own, and how it is asked."""

from typing import Any

from ml_collections import ConfigDict

from tempo_jax.evaluation import ahead, model
from tempo_jax.evaluation.settings import AXES, UNCOMPRESSED, Setting
from tempo_jax.tempo.options import PRUNE_STRATEGIES, STRATEGIES, Options
from tempo_jax.video import Reading, Source
from tempo_jax.xcomp import options as xcomp
from tempo_jax.xcomp.layout import VIDEO_CONFIG, sample_indices


def _reading(config: ConfigDict) -> Reading:
    """How files are read; published numbers come from frames as stored, sampled by number."""
    released = config.sampling == "index"
    return Reading(sampling=config.sampling, exif=not released, square_pixels=not released)


class TempoSystem:
    """`tempo_jax.Tempo` as a config describes it; loads the checkpoint."""

    strategies = (*STRATEGIES, UNCOMPRESSED)
    axes = AXES  # of the grid, that mean something to it

    def __init__(self, config: ConfigDict):
        self.config, self.model = config, model.load(config)

    def sampling(self, max_frames: int) -> ahead.Sampling:
        config = self.config
        limits = (config.fps, config.min_frames, max_frames)
        return ahead.Sampling(*limits, self.model.config.video, reading=_reading(config))

    def open(self, source: Source) -> Any:
        """A clip that has read the source."""
        prefix, batch = self.config.reuse == "prefix", self.config.batch
        return self.model.open(source, keep=True, prefix_cache=prefix, questions=batch)

    def options(self, setting: Setting, new_tokens: int) -> Options:
        drop = {"drop_ratio": self.config.drop_ratio} if setting.strategy in PRUNE_STRATEGIES else {}
        return Options(**setting.options(), **drop, max_new_tokens=new_tokens, seed=self.config.seed)


class XCompSystem:
    """`xcomp.engine.XComp`: budgets are visual tokens of whole frames, segments are frames."""

    strategies = (*xcomp.SCORERS, UNCOMPRESSED)
    axes = ("max_frames", "strategy", "budget")

    def __init__(self, config: ConfigDict):
        self.config, self.model = config, model.load(config)

    def sampling(self, max_frames: int) -> ahead.Sampling:
        config = self.config
        limits = (config.fps, config.min_frames, max_frames)
        return ahead.Sampling(*limits, VIDEO_CONFIG, sample_indices, _reading(config))

    def open(self, source: Source) -> Any:
        """A clip that has read the source."""
        limits = {"min_frames": self.config.min_frames, "repeat_short": self.config.xcomp.repeat_short}
        return self.model.open(source, **limits)

    def options(self, setting: Setting, new_tokens: int) -> xcomp.Options:
        own = self.config.xcomp
        asked = setting.options()
        for name in set(AXES) - set(self.axes):
            asked.pop(name, None)
        return xcomp.Options(
            **asked,
            max_new_tokens=new_tokens,
            seed=self.config.seed,
            repeats=own.repeats,
            causal_scoring=own.causal_scoring,
            query_skip=None if own.query_skip < 0 else own.query_skip,
            repetition_penalty=own.repetition_penalty,
        )


SYSTEMS = {"tempo": TempoSystem, "xcomp": XCompSystem}
