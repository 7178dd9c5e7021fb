"""What is compiled: a training config's step, or an inference config's programs, as shapes on a mesh."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from tempo_jax.errors import TempoError


class Program(NamedTuple):
    """A jitted function and its arguments as shapes with places; nothing is allocated."""

    name: str
    function: Any  # jax.jit's
    args: tuple
    kwargs: dict
    flops: float  # analytic model FLOPs of one run on the whole mesh
    tokens: int  # of the LLM (a training step, prefill, decode) or of the compressor (its chunks)
    runs: float  # of it per training step, or per hour-long video and question
    labels: float = 1.0  # share of the loss's chunks of labels that have any: the others are skipped
    floor_bytes: float = 0.0  # that a chip has to read from HBM, whatever the program does
    beside_bytes: float = 0.0  # weights that lie in a chip's HBM meanwhile and are not among args

    def lower(self):
        return self.function.lower(*self.args, **self.kwargs)


def of(config: ConfigDict, devices: list) -> tuple[jax.sharding.Mesh, Iterator[Program]]:
    """The mesh and the programs of a config; TempoError where the config does not say what is planned."""
    from tempo_jax.training.run import make_mesh

    programs = _kind(config).programs
    mesh = make_mesh(config, devices)
    return mesh, programs(config, mesh)


def _kind(config: ConfigDict) -> Any:
    from tempo_jax.models.config import PRESETS, TempoConfig, XCompConfig
    from tempo_jax.plan import inference, inference_xcomp, train

    if "ask" not in config:
        if "rates" not in config:
            raise TempoError(
                "the config is neither a training run nor has it an `ask` part: see configs/ask_6b.py"
            )
        return train
    kind = {TempoConfig: inference, XCompConfig: inference_xcomp}.get(type(PRESETS.get(config.model)))
    if kind is None:
        raise TempoError(
            f"config.model is {config.model!r}, which answers no questions: choose a Tempo or an XComp"
        )
    return kind
