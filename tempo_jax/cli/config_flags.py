"""Command lines of absl flags and an ml_collections config; usage errors are one line."""

import os
import sys
from collections.abc import Mapping

from absl import flags

from tempo_jax.errors import TempoError
from tempo_jax.utils import config_fields


def parse(
    argv: list[str],
    known: flags.FlagValues,
    required: tuple[flags.FlagHolder, ...],
    fields: str,
    renamed: Mapping[str, str],
) -> None:
    """Reads the `known` flags and locks the config, which is the first of `required`.

    Args:
      argv: Words of the command line, the program's name first.
      known: The flags that the command has.
      required: Flags that must be given; the first one holds the config.
      fields: The file that defines the config's fields, for the error about an unknown one.
      renamed: Old paths of fields and their present ones (`config_fields.RENAMED`).

    Raises:
      TempoError: A flag, field or value is unknown, malformed or missing.
    """
    try:
        sys.argv = config_fields.current_arguments(sys.argv, renamed)  # config_flags reads overrides there
        rest = known(config_fields.current_arguments(argv, renamed))
        for flag in required:
            if flag.value is None:
                raise TempoError(f"--{flag.name} is missing (see python {os.path.basename(argv[0])} --help)")
        if rest[1:]:
            raise TempoError(f"{rest[1]!r} is no flag: give --config, --workdir and --config.field=value")
        required[0].value.lock()
    except TempoError:
        raise
    except OSError as error:
        named = f"--{required[0].name}="
        path = next((word.removeprefix(named) for word in argv if word.startswith(named)), "named so")
        raise TempoError(f"there is no config file {path}: name one of configs/") from error
    except (AttributeError, KeyError) as error:
        name = str(error.args[0] if error.args else error).splitlines()[0].strip("'\"")
        raise TempoError(f"the config has no field {name}: the fields are in {fields}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise TempoError(str(error).strip().splitlines()[-1]) from error
