"""Trains Tempo, XComp or a backbone alone: one entry point from a laptop to a pod.

    python train.py --config=configs/tiny_stage0.py --workdir=build/tiny/stage0 [--config.field=value ...]

Rerun the same command to resume an interrupted run. On several hosts start it on each with --distributed;
Cloud TPU needs nothing else, elsewhere give --coordinator, --processes and --process.
Exit status: 0 finished, 2 usage error (one line on stderr), 75 try again (a process or host was lost),
143 stopped by SIGTERM after saving, 1 internal error (TEMPO_JAX_TRACEBACK=1 shows where).
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
    "commit",
    None,
    ["auto", "marker"],
    "marker: write checkpoints where folders are not renamed atomically (gcsfuse).",
)
_NO_CACHE = flags.DEFINE_bool("no-cache", False, "Compile everything, without the compilation cache.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Enable multi-process training (calls jax.distributed.initialize)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0 (auto-detected on Cloud TPU)."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes (auto-detected on Cloud TPU).")
_WAIT = flags.DEFINE_integer("wait_seconds", 40, "Seconds to wait for the other processes.")
_PROCESS = flags.DEFINE_integer(
    "process", None, "Index of this process, from 0 (auto-detected on Cloud TPU)."
)

STATUS = {"finished": 0, "preempted": 143}


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__}{flags.FLAGS.module_help(sys.modules[__name__])}")
        return 0
    from tempo_jax.cli import config_flags as cli_config
    from tempo_jax.utils import command_line, compilation_cache, config_fields

    def command() -> int:
        cli_config.parse(
            argv,
            flags.FLAGS,
            (_CONFIG, _WORKDIR),
            "tempo_jax/training/config.py",
            config_fields.RENAMED["train"],
        )
        if _COMMIT.value:
            _CONFIG.value.commit = _COMMIT.value
        if _NO_CACHE.value:
            compilation_cache.turn_off()
        from tempo_jax.training import peers

        if not _DISTRIBUTED.value:
            return train()
        address = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
        with peers.joined("train", *address, _WAIT.value):
            return train()

    def train() -> int:
        compilation_cache.turn_on(command_line.say, first=False)
        from tempo_jax.training import loop

        if _EXPORT.value:
            loop.export(_CONFIG.value, _WORKDIR.value)
            return 0
        return STATUS[loop.train(_CONFIG.value, _WORKDIR.value)]

    return command_line.run("train", command)


if __name__ == "__main__":
    from tempo_jax.utils.command_line import leave

    leave(main(sys.argv))
