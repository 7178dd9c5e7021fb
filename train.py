"""Trains Tempo, or the small VLM alone: one entry point from a laptop to a pod.

    python train.py --config=configs/tiny_stage0.py --workdir=build/tiny/stage0 [--config.field=value ...]

The same command continues a run that was interrupted. On several hosts start it on each with
--distributed; Cloud TPU needs nothing else, elsewhere give --coordinator, --processes and --process.
Exit status: 0 finished, 2 a mistake (one sentence on stderr), 143 stopped by SIGTERM after saving, 1 a
bug of ours (TEMPO_JAX_TRACEBACK=1 shows where).
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
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes that train together.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0; found out on Cloud TPU.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many there are; found out on Cloud TPU.")
_PROCESS = flags.DEFINE_integer("process", None, "Which one this is, from 0; found out on Cloud TPU.")

STATUS = {"finished": 0, "preempted": 143}


def parse(argv: list[str]) -> None:
    """Reads the flags; a mistake in them, or in a field of the config, is one sentence."""
    from tempo_jax.errors import TempoError

    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        name = str(error.args[0] if error.args else error).splitlines()[0].strip("'\"")
        raise TempoError(
            f"the config has no field {name}: the fields are in tempo_jax/training/config.py"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise TempoError(str(error).strip().splitlines()[-1]) from error
    for flag in (_CONFIG, _WORKDIR):
        if flag.value is None:
            raise TempoError(f"--{flag.name} is missing (see python train.py --help)")
    if rest[1:]:
        raise TempoError(f"{rest[1]!r} is no flag: give --config, --workdir and --config.field=value")
    try:
        _CONFIG.value.lock()
    except OSError as error:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise TempoError(f"there is no config file {path}: name one of configs/") from error


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__}{flags.FLAGS.module_help(sys.modules[__name__])}")
        return 0
    from tempo_jax import cli_options

    def command() -> int:
        parse(argv)
        import jax

        if _DISTRIBUTED.value:
            jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        from tempo_jax.training import loop

        if _EXPORT.value:
            loop.export(_CONFIG.value, _WORKDIR.value)
            return 0
        return STATUS[loop.train(_CONFIG.value, _WORKDIR.value)]

    return cli_options.run("train", command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
