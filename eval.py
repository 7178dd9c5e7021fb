"""Evaluates a model on a long-video benchmark: one entry point from a laptop to a slice.

    python eval.py --config=configs/eval_lvbench.py --workdir=build/lvbench --config.data.path=LVBench
        [--config.checkpoint=DIR] [--config.budget=4096,8192] [--config.field=value ...]

Rerun the same command to resume an interrupted run. Several processes share the videos: start the
command in each with --processes and --process, all with the same workdir, together or one after the other;
on a Cloud TPU slice with --distributed instead. The last one writes WORKDIR/report.md. With --ray they are
tasks of an existing Ray cluster.
Exit status: 0 finished, 3 finished, but questions are unanswered (videos missing or not decodable: the report
lists them, and the same command answers those whose videos have come since), 2 usage error (one line on
stderr), 75 try again (a process or host was lost), 1 internal error (TEMPO_JAX_TRACEBACK=1 shows where).
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

UNANSWERED = 3  # exit status
FLAGS = flags.FlagValues()  # separate from the global ones: train.py has flags of the same names
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to evaluate: one of configs/eval_*.py.", flag_values=FLAGS, lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: its rows and its report.", flag_values=FLAGS
)
_REPORT = flags.DEFINE_bool(
    "report", False, "Only write the report of what has been answered so far.", flag_values=FLAGS
)
_NO_CACHE = flags.DEFINE_bool(
    "no-cache", False, "Compile everything, without the compilation cache.", flag_values=FLAGS
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Enable multi-process evaluation (calls jax.distributed.initialize).",
    flag_values=FLAGS,
)  # fmt: skip
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, with --distributed (auto-detected on Cloud TPU).",
    flag_values=FLAGS,
)  # fmt: skip
_PROCESSES = flags.DEFINE_integer(
    "processes", 1, "Number of processes or Ray tasks that share the videos (auto-detected on Cloud TPU; "
    "tasks: as many as run at a time).", flag_values=FLAGS,
)  # fmt: skip
_PROCESS = flags.DEFINE_integer(
    "process", 0, "Index of this process, from 0 (auto-detected on Cloud TPU).", flag_values=FLAGS
)
_RAY = flags.DEFINE_string(
    "ray", "", "A Ray cluster whose tasks answer: auto, HOST:PORT or local.", flag_values=FLAGS
)
_WAIT = flags.DEFINE_integer(
    "wait_seconds", 40, "Seconds to wait for the other processes, with --distributed.", flag_values=FLAGS
)


def _process_and_count() -> tuple[int, int]:
    """The index of this process and the number of processes."""
    if not _DISTRIBUTED.value:
        return _PROCESS.value, _PROCESSES.value
    import jax

    return jax.process_index(), jax.process_count()


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__}{FLAGS.get_help()}")
        return 0
    from tempo_jax.cli import config_flags as cli_config
    from tempo_jax.errors import TempoError
    from tempo_jax.utils import command_line, compilation_cache, config_fields

    def command() -> int:
        fields = "tempo_jax/evaluation/config.py"
        cli_config.parse(argv, FLAGS, (_CONFIG, _WORKDIR), fields, config_fields.RENAMED["eval"])
        if _RAY.value and (_DISTRIBUTED.value or _PROCESS.present):
            raise TempoError("--ray excludes --distributed and --process: its tasks are the processes")
        if _NO_CACHE.value:
            compilation_cache.turn_off()
        if not _DISTRIBUTED.value:
            return evaluate()
        from tempo_jax.training import peers

        address = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
        with peers.joined("eval", *(address if _COORDINATOR.value else (None,) * 3), _WAIT.value):
            return evaluate()

    def evaluate() -> int:
        if not _REPORT.value and not _RAY.value:
            compilation_cache.turn_on(command_line.say)
        from tempo_jax.evaluation.runner import Run

        run = Run(_CONFIG.value, _WORKDIR.value, *((0, 1) if _RAY.value else _process_and_count()))
        if _REPORT.value:
            lines = run.report()
        elif _RAY.value:
            from tempo_jax.evaluation import on_ray

            on_ray.ask(run, _RAY.value, _PROCESSES.value if _PROCESSES.present else None)
            lines = run.finish(wait=False)
        else:
            run.ask()
            lines = run.finish(wait=_DISTRIBUTED.value)
        for line in lines:
            print(line)
        if unanswered := run.unanswered():
            command_line.say(f"eval: not answered: {unanswered}; {run.workdir / 'report.md'} lists them.")
        return UNANSWERED if unanswered else 0

    return command_line.run("eval", command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
