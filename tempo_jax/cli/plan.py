"""`tempo plan`: what a config takes on a TPU slice, compiled for it on this host."""

import argparse
import contextlib
import json
import sys
from typing import Any

from tempo_jax.utils import command_line, paths

HELP = """\
Compile a config's programs for a TPU slice ahead of time (no TPU is needed) and print peak memory, step time,
communication and model FLOPs utilization (MFU), estimated from the compiled programs. CONFIG is a file of
configs/: a training run, or one with an `ask` section such as configs/ask_6b.py; FILE:ARGUMENT passes it an
argument."""


def add_parser(commands: Any) -> None:
    """Adds the subcommand and its options."""
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
        help="TPU generation (v4, v5e, v5p, v6e, v7x) and chips along each axis, as v5p:4x4x4 or v5e:2x4",
    )
    plan.add_argument(
        "--slices",
        type=command_line.number(int, 1),
        default=1,
        metavar="N",
        help="number of equal slices (1)",
    )
    plan.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="override a field of the config; may be repeated",
    )
    plan.add_argument(
        "--search", action="store_true", help="search meshes, rematerialization policies and batch sizes"
    )
    plan.add_argument(
        "--jobs",
        type=command_line.number(int, 1),
        default=1,
        metavar="N",
        help="parallel compilations of a search; each takes up to 12 GB of host memory for Tempo-6B (1)",
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    plan.add_argument("--out", metavar="FILE", help="write that object to FILE too; may be in gs://")
    plan.add_argument("--dump", metavar="DIR", help="folder for each program's optimized HLO")
    plan.set_defaults(run=run_plan)


def run_plan(args: argparse.Namespace) -> int:
    """Prints the plan. The status is 0 even if a program does not fit: that is a result, not an error."""
    from tempo_jax.plan import topology
    from tempo_jax.plan.programs import read_config

    out = None if args.out is None else paths.path("--out", args.out)  # before anything slow
    tpu_slice = topology.parse(args.topology, args.slices)
    topology.prepare()
    config = read_config(args.config, args.set)
    with contextlib.redirect_stdout(sys.stderr):
        if args.search:
            from tempo_jax.plan import search

            text, values = search.run(config, tpu_slice, command_line.say, args.jobs)
        else:
            from tempo_jax.plan import compile, report

            plan = compile.plan(config, tpu_slice, _dump(args.dump), command_line.say)
            text, values = report.to_text(plan), report.to_json(plan)
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
