"""Reads config files for the planner, with overrides of their fields."""

import ast
import sys
from pathlib import Path
from typing import Any

from tempo_jax.errors import TempoError


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
