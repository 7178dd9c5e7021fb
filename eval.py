"""Evaluates a model on a long-video benchmark: one entry point from a laptop to a slice.

    python eval.py --config=configs/eval_lvbench.py --workdir=build/lvbench --config.data.path=LVBench
        [--config.checkpoint=DIR] [--config.budget=4096,8192] [--config.field=value ...]

The same command continues a run that was interrupted. Several processes share the videos: start the
command in each with --processes and --process, all with the same workdir, together or one after the other;
on a Cloud TPU slice with --distributed instead. The last one writes WORKDIR/report.md.
Exit status: 0 finished, 3 finished, but questions are unanswered (videos missing or not decodable: the report
lists them, and those that come later are asked about by the same command), 2 a mistake (one sentence on
stderr), 75 try again (a process or host that vanished), 1 a bug of ours (TEMPO_JAX_TRACEBACK=1 shows where).
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

UNANSWERED = 3  # exit status
FLAGS = flags.FlagValues()  # its own: train.py has flags of the same names
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to evaluate: one of configs/eval_*.py.", flag_values=FLAGS, lock_config=True
)
_WORKDIR, _COORDINATOR = (
    flags.DEFINE_string(name, None, text, flag_values=FLAGS)
    for name, text in (
        ("workdir", "Folder of the run: its rows and its report."),
        ("coordinator", "host:port of process 0, with --distributed; found out on Cloud TPU."),
    )
)
_REPORT, _DISTRIBUTED, _NO_CACHE = (
    flags.DEFINE_bool(name, False, text, flag_values=FLAGS)
    for name, text in (
        ("report", "Only write the report of what has been answered so far."),
        ("distributed", "One of several processes that know each other."),
        ("no-cache", "Compile anew, and keep nothing of it."),
    )
)
_PROCESSES, _PROCESS, _WAIT = (
    flags.DEFINE_integer(name, default, text, flag_values=FLAGS)
    for name, default, text in (
        ("processes", 1, "How many share the work; found out on Cloud TPU."),
        ("process", 0, "Which one this is, from 0; found out on Cloud TPU."),
        ("wait_seconds", 40, "For how long to wait for the others to come, with --distributed."),
    )
)


def _who() -> tuple[int, int]:
    """(which process this is, how many there are)."""
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
    from tempo_jax.utils import command_line, compilation_cache

    def command() -> int:
        cli_config.parse(argv, FLAGS, (_CONFIG, _WORKDIR), "tempo_jax/evaluation/config.py")
        if _NO_CACHE.value:
            compilation_cache.turn_off()
        if not _DISTRIBUTED.value:
            return work()
        from tempo_jax.training import peers

        here = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
        with peers.joined("eval", *(here if _COORDINATOR.value else (None,) * 3), _WAIT.value):
            return work()

    def work() -> int:
        if not _REPORT.value:
            compilation_cache.turn_on(command_line.say)
        from tempo_jax.evaluation.runner import Run

        run = Run(_CONFIG.value, _WORKDIR.value, *_who())
        if _REPORT.value:
            lines = run.report()
        else:
            run.ask()
            lines = run.finish(wait=_DISTRIBUTED.value)
        for line in lines:
            print(line)
        if lost := run.lost():
            command_line.say(f"eval: not answered: {lost}; {run.workdir / 'report.md'} lists them.")
        return UNANSWERED if lost else 0

    return command_line.run("eval", command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
