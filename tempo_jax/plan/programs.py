"""The programs of a config: a training config's step, or an inference config's programs."""

from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.plan.abstract import Program


def make_programs(config: ConfigDict, devices: list) -> tuple[jax.sharding.Mesh, Iterator[Program]]:
    """Returns the mesh and the programs of a config.

    Raises:
      TempoError: The config is neither of training nor of inference.
    """
    from tempo_jax.training.run import make_mesh

    programs = _kind(config).programs
    mesh = make_mesh(config, devices)
    return mesh, programs(config, mesh)


def _kind(config: ConfigDict) -> Any:
    from tempo_jax.models.config import TempoConfig, XCompConfig
    from tempo_jax.models.presets import PRESETS
    from tempo_jax.plan import programs_tempo, programs_train, programs_xcomp

    if "ask" not in config:
        if "rates" not in config:
            raise TempoError(
                "the config is neither a training run nor has it an `ask` part: see configs/ask_6b.py"
            )
        return programs_train
    kind = {TempoConfig: programs_tempo, XCompConfig: programs_xcomp}.get(type(PRESETS.get(config.model)))
    if kind is None:
        raise TempoError(
            f"config.model is {config.model!r}, which answers no questions: choose a Tempo or an XComp"
        )
    return kind
