"""Trains Tempo, or the small VLM alone: one entry point from a laptop to a pod.

    python train.py --config=configs/tiny_stage0.py --workdir=build/tiny/stage0 [--config.field=value ...]

The same command continues a run that was interrupted. On several hosts start it on each with
--distributed; Cloud TPU needs nothing else, elsewhere give --coordinator, --processes and --process.
Exit status: 0 finished, 2 a mistake (one sentence on stderr), 75 try again (a process or host that vanished),
143 stopped by SIGTERM after saving, 1 a bug of ours (TEMPO_JAX_TRACEBACK=1 shows where).
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to train: a file of configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, and the model.")
_EXPORT = flags.DEFINE_bool("export", False, "Only write WORKDIR/model from the last checkpoint.")
_COMMIT = flags.DEFINE_enum(
    "commit", None, ["auto", "marker"], "marker: checkpoints where folders are not renamed at once (gcsfuse)."
)
_NO_CACHE = flags.DEFINE_bool("no-cache", False, "Compile anew, and keep nothing of it.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes that train together.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0; found out on Cloud TPU.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many there are; found out on Cloud TPU.")
_WAIT = flags.DEFINE_integer("wait_seconds", 40, "For how long to wait for the others to come.")
_PROCESS = flags.DEFINE_integer("process", None, "Which one this is, from 0; found out on Cloud TPU.")

STATUS = {"finished": 0, "preempted": 143}


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__}{flags.FLAGS.module_help(sys.modules[__name__])}")
        return 0
    from tempo_jax.cli import config_flags as cli_config
    from tempo_jax.utils import command_line, compilation_cache

    def command() -> int:
        cli_config.parse(argv, flags.FLAGS, (_CONFIG, _WORKDIR), "tempo_jax/training/config.py")
        if _COMMIT.value:
            _CONFIG.value.commit = _COMMIT.value
        if _NO_CACHE.value:
            compilation_cache.turn_off()
        from tempo_jax.training import peers

        if not _DISTRIBUTED.value:
            return work()
        where = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
        with peers.joined("train", *where, _WAIT.value):
            return work()

    def work() -> int:
        compilation_cache.turn_on(command_line.say, first=False)
        from tempo_jax.training import loop

        if _EXPORT.value:
            loop.export(_CONFIG.value, _WORKDIR.value)
            return 0
        return STATUS[loop.train(_CONFIG.value, _WORKDIR.value)]

    return command_line.run("train", command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
