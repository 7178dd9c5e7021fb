"""Command lines of absl flags and an ml_collections config, a mistake in them one sentence."""

import os

from absl import flags

from tempo_jax.errors import TempoError


def parse(
    argv: list[str], known: flags.FlagValues, required: tuple[flags.FlagHolder, ...], fields: str
) -> None:
    """Reads the `known` flags and locks the config, which is the first of `required`.

    fields: the file that has the config's fields, for whoever named one that there is not.
    """
    try:
        rest = known(argv)
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
