"""From a config file to its programs: a training config's step, or an inference config's programs.

Each kind of program is described by a file of its own, which is imported where a config needs it: reading a
config does not import jax.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempo_jax.errors import TempoError

if TYPE_CHECKING:
    import jax
    from ml_collections import ConfigDict

    from tempo_jax.plan.abstract import Program


def read_config(name: str, overrides: list[str]) -> Any:
    """Reads the ConfigDict of a config file.

    Args:
      name: Path of the file, or path:argument.
      overrides: As FIELD=VALUE.

    Raises:
      TempoError: There is no such file or field, or a value has another type.
    """
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise TempoError(f"there is no config file {path}: name one of configs/")

    module = _module(Path(path))
    config = module.get_config(argument) if argument else module.get_config()
    for override in overrides:
        field, equals, text = override.partition("=")
        if not equals:
            raise TempoError(f"--set {override} is no change: give FIELD=VALUE, as in mesh.tensor=4")
        _set(config, field, text)
    return config


def _module(path: Path) -> Any:
    import importlib.util

    sys.path.insert(0, str(path.resolve().parent.parent))  # configs import their siblings
    spec = importlib.util.spec_from_file_location(f"planned_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise TempoError(f"{path} has no get_config(): name a file of configs/")
    return module


def _set(config: Any, field: str, text: str) -> None:
    *parents, leaf = field.split(".")
    node = config
    for parent in parents:
        node = node.get(parent) if hasattr(node, "get") else None
    if not hasattr(node, "get") or leaf not in node:
        raise TempoError(f"the config has no field {field}: --set changes fields that are there")
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    try:
        node[leaf] = value
    except TypeError as error:
        raise TempoError(f"{text!r} does not fit config.{field}, which is {node[leaf]!r}") from error


def make_programs(config: "ConfigDict", devices: list) -> tuple["jax.sharding.Mesh", Iterator["Program"]]:
    """Returns the mesh and the programs of a config.

    Raises:
      TempoError: The config is neither of training nor of inference.
    """
    from tempo_jax.training.run_state import make_mesh

    programs = _kind(config).programs
    mesh = make_mesh(config, devices)
    return mesh, programs(config, mesh)


def _kind(config: "ConfigDict") -> Any:
    from tempo_jax.models.config import TempoConfig, XCompConfig
    from tempo_jax.models.presets import PRESETS
    from tempo_jax.plan import programs_tempo, programs_train, programs_xcomp

    if "ask" not in config:
        if "learning_rate" not in config:
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
