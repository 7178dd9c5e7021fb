"""What the commands share: options of the model and of questions, fast checks, and loading.

Nothing above `load` imports jax, so that `--help` and usage errors take no time.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempo_jax import fields
from tempo_jax.errors import TempoError
from tempo_jax.fields import FIELDS
from tempo_jax.utils import command_line, compilation_cache, paths

DEFAULT_CHECKPOINT = "checkpoints/demo"
CLONE = Path(__file__).resolve().parents[2]  # of the repository, where there is one
DTYPES = ("bfloat16", "float32", "int8", "fp8")
DTYPE_HELP = "compute in this type (default: as stored); int8, fp8: bfloat16 with weights in 8 bits"
READING_OPTIONS = ("sampling", "source_fps", "exif", "square_pixels")  # of video.Reading
OPEN_OPTIONS = ("fps", "min_frames", "max_frames", *READING_OPTIONS)
ASK_OPTIONS = ("budget", "strategy", "compress", "lp_comp", "max_new_tokens", "temperature")


def add_field(group: argparse._ActionsContainer, name: str, note: str, **options: Any) -> None:
    """Adds the option of a field of `fields.FIELDS`, with its bounds or choices and its help.

    Args:
      group: the parser or group to add it to.
      name: the field's name.
      note: what follows the help in parentheses: the default, and what differs between systems.
      **options: for `add_argument`; they come before what the table says.
    """
    field = FIELDS[name]
    if field.kind is str:
        options = {"choices": field.every_choice} | options
    else:
        options = {"type": field_type(name), "metavar": "F" if field.kind is float else "N"} | options
    group.add_argument(f"--{name.replace('_', '-')}", help=f"{field.help} ({note})", **options)


def field_type(name: str) -> Callable[[str], Any]:
    """The argparse type of a numeric field."""

    def parse(text: str) -> Any:
        try:
            return fields.check(name, FIELDS[name].kind(text))
        except (ValueError, TempoError):
            raise argparse.ArgumentTypeError(f"{text!r:.80} is not {fields.described(name)}") from None

    return parse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and video")
    add = group.add_argument
    add(
        "--checkpoint",
        metavar="DIR",
        help="folder of a converted model (python -m convert.from_hf writes one)",
    )
    add("--dtype", choices=DTYPES, help=DTYPE_HELP)
    add_no_cache(group)
    add_field(group, "budget", "default: 8192; XComp: 8192 from 1024 frames on, else all")
    add_field(group, "fps", "default: 2; XComp: 8")
    add_field(group, "min_frames", "default: 4; XComp: 128")
    add_field(group, "max_frames", "default: 1024")
    add_reading_options(group)
    add_field(group, "strategy", "default: head; XComp: local, global or uniform, default: local")
    add(
        "--no-compress",
        dest="compress",
        action="store_false",
        help="keep every visual token, whatever its relevance",
    )
    add_field(
        group,
        "lp_comp",
        "default: none, or suffix or prefix of a segment's tokens; XComp: as in the checkpoint, or none, "
        "released, paper, uniform, steps",
    )
    group = parser.add_argument_group("answer")
    add_field(group, "max_new_tokens", "default: 1024", default=1024)
    add_field(group, "temperature", "default: 0", default=0.0, metavar="T")


def add_no_cache(group: argparse._ActionsContainer) -> None:
    """Adds --no-cache, which every command that compiles has."""
    group.add_argument(
        "--no-cache",
        action=compilation_cache.NoCache,
        help="compile anew: neither read nor write the compilation cache",
    )


def add_reading_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options of decoding: the fields of `video.Reading`."""
    add = group.add_argument
    add("--sampling", choices=command_line.SAMPLINGS, help=command_line.SAMPLING_HELP)
    add(
        "--source-fps",
        type=command_line.number(float, 0, True),
        metavar="F",
        help="frames per second at which a folder of images or a .npy was recorded (default: that of --fps)",
    )
    add(
        "--exif",
        action=argparse.BooleanOptionalAction,
        help="rotate photos by their EXIF orientation (the default)",
    )
    add(
        "--square-pixels",
        action=argparse.BooleanOptionalAction,
        help="stretch frames whose pixels are not square to their display size (the default)",
    )


def checkpoint_folder(option: str | None) -> Path:
    """Finds the checkpoint folder: --checkpoint, else $TEMPO_CHECKPOINT, else that of the demo model.

    Raises:
      TempoError: There is no such folder.
    """
    named = option or os.environ.get("TEMPO_CHECKPOINT")
    if named and paths.url(named):
        found = paths.path("the checkpoint", named)
        if (found / "model.json").is_file():
            return found
        raise TempoError(f"There is no checkpoint at {named}: it holds no model.json.")
    if named:
        candidates = [Path(named)]
    else:  # in a clone the default is there from any directory
        candidates = [Path(DEFAULT_CHECKPOINT), CLONE / DEFAULT_CHECKPOINT]
    for candidate in candidates:
        if os.path.isdir(candidate):
            return candidate
    raise TempoError(
        f"There is no checkpoint folder {candidates[0]}; name a converted model with --checkpoint DIR "
        "(a clone of the repository has checkpoints/demo)."
    )


def load(checkpoint: Path, dtype: str | None = None) -> Any:
    """Loads the model of a native checkpoint; imports jax."""
    # transformers, whose tokenizer is used, would print advice to install PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import tempo_jax

    compilation_cache.turn_on(command_line.say)
    return tempo_jax.load(str(checkpoint), dtype=dtype)


def chosen(args: argparse.Namespace, names: tuple[str, ...]) -> dict:
    """The options of `names` that the user set; the system has defaults for the others."""
    options = {name: getattr(args, name) for name in names}
    return {name: value for name, value in options.items() if value is not None}
