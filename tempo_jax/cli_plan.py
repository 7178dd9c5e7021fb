"""`tempo plan`: what a config takes on a TPU slice, compiled for it on this host."""

import argparse
import ast
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from tempo_jax import cli_options as options
from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

HELP = """\
Compiles a config's programs for TPUs that need not be there, and prints memory, time, communication and
model FLOP utilisation (MFU) as predicted from the compiler's own estimates. CONFIG is a file of configs/:
a training run, or one with an `ask` part such as configs/ask_6b.py; FILE:ARGUMENT passes it an argument."""


def add_parser(commands: Any) -> None:
    """The subcommand and its options."""
    plan = commands.add_parser(
        "plan",
        help="predict memory and speed on a TPU slice",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("--config", required=True, metavar="CONFIG")
    plan.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:AxB[xC]",
        help="v4, v5e, v5p, v6e or v7x and its chips along each axis: v5p:4x4x4, v5e:2x4",
    )
    plan.add_argument(
        "--slices", type=options.number(int, 1), default=1, metavar="N", help="equal slices (1)"
    )
    plan.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="changes the config; may be repeated",
    )
    plan.add_argument("--search", action="store_true", help="try meshes, rematerialisation and batch sizes")
    plan.add_argument(
        "--jobs",
        type=options.number(int, 1),
        default=1,
        metavar="N",
        help="compilations of a search at a time, each up to 12 GB of host memory for a step of 6B (1)",
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    plan.add_argument("--out", metavar="FILE", help="write that object there too; may be in gs://")
    plan.add_argument("--dump", metavar="DIR", help="write each program's optimised HLO there")
    plan.set_defaults(run=run_plan)


def run_plan(args: argparse.Namespace) -> int:
    """Prints the plan; status 0 also where something does not fit: that is an answer."""
    from tempo_jax.plan import topology

    out = None if args.out is None else paths.path("--out", args.out)  # before anything slow
    where = topology.parse(args.topology, args.slices)
    topology.prepare()
    config = read_config(args.config, args.set)
    with contextlib.redirect_stdout(sys.stderr):
        if args.search:
            from tempo_jax.plan import search

            text, values = search.run(config, where, options.say, args.jobs)
        else:
            from tempo_jax.plan import compile, report

            plan = compile.plan(config, where, _dump(args.dump), options.say)
            text, values = report.text(plan), report.to_json(plan)
    if out is not None:
        paths.write_text(out, json.dumps(values) + "\n")
    print(json.dumps(values) if args.json else text, flush=True)
    return 0


def _dump(folder: str | None) -> Any:
    if folder is None:
        return None

    def write(name: str, text: str) -> None:
        path = paths.path("--dump", folder)
        path.mkdir(parents=True, exist_ok=True)
        paths.write_text(path / f"{name.replace(' ', '_')}.hlo", text)

    return write


def read_config(name: str, changes: list[str]) -> Any:
    """The ConfigDict of a config file, changed; TempoError for a file or a field that is not there."""
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise TempoError(f"there is no config file {path}: name one of configs/")

    module = _module(Path(path))
    config = module.get_config(argument) if argument else module.get_config()
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals:
            raise TempoError(f"--set {change} is no change: give FIELD=VALUE, as in mesh.tensor=4")
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
