"""What the commands share: options of the model and of questions, checks before anything slow, loading.

Nothing above `load` imports jax, so that `--help` and bad arguments answer at once.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, compilation_cache, paths

DEFAULT_CHECKPOINT = "checkpoints/demo"
CLONE = Path(__file__).resolve().parents[2]  # of the repository, where there is one
STRATEGIES = ("head", "tail", "random", "tome", "uniform", "local", "global")
DTYPES = ("bfloat16", "float32", "int8", "fp8")
DTYPE_HELP = "compute in this type (default: as stored); int8, fp8: bfloat16 with weights in 8 bits"
READING_OPTIONS = ("sampling", "source_fps", "exif", "square_pixels")  # of video.Reading
OPEN_OPTIONS = ("fps", "min_frames", "max_frames", *READING_OPTIONS)
LP_COMP = ("none", "suffix", "prefix", "released", "paper", "uniform", "steps")
ASK_OPTIONS = ("budget", "strategy", "compress", "lp_comp", "max_new_tokens", "temperature")


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
    add(
        "--budget",
        type=command_line.number(int, 1),
        metavar="N",
        help="visual tokens to spend (default 8192; XComp: 8192 from 1024 frames on, else all)",
    )
    add(
        "--fps",
        type=command_line.number(float, 0, True),
        metavar="F",
        help="frames per second to look at (2; XComp: 8)",
    )
    add(
        "--min-frames",
        type=command_line.number(int, 1),
        metavar="N",
        help="look at no fewer frames (4; XComp: 128)",
    )
    add("--max-frames", type=command_line.number(int, 1), metavar="N", help="look at no more frames (1024)")
    add_reading_options(group)
    add(
        "--strategy",
        choices=STRATEGIES,
        help="which memory tokens of a segment stay (head); XComp: which frames (local, global, uniform)",
    )
    add(
        "--no-compress",
        dest="compress",
        action="store_false",
        help="keep every memory token, whatever the segment's relevance",
    )
    add(
        "--lp-comp",
        choices=LP_COMP,
        help="delete visual tokens between the LLM's layers: none (the default), suffix or prefix of a "
        "segment's tokens stay; XComp: none, released, paper, uniform, steps (default: as the checkpoint)",
    )
    group = parser.add_argument_group("answer")
    group.add_argument(
        "--max-new-tokens", type=command_line.number(int, 1), default=1024, metavar="N", help="(1024)"
    )
    group.add_argument(
        "--temperature",
        type=command_line.number(float, 0),
        default=0.0,
        metavar="T",
        help="0 is greedy (the default)",
    )


def add_no_cache(group: argparse._ActionsContainer) -> None:
    """The option of every command that computes."""
    group.add_argument(
        "--no-cache", action=compilation_cache.NoCache, help="compile anew, and keep nothing of it"
    )


def add_reading_options(group: argparse._ArgumentGroup) -> None:
    """How files are read: the fields of `video.Reading`."""
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
        help="turn photos upright by their EXIF orientation (the default)",
    )
    add(
        "--square-pixels",
        action=argparse.BooleanOptionalAction,
        help="stretch frames whose pixels are not square to their display size (the default)",
    )


def checkpoint_folder(given: str | None) -> Path:
    """The checkpoint folder to use; TempoError where there is none."""
    named = given or os.environ.get("TEMPO_CHECKPOINT")
    if named and paths.url(named):
        found = paths.path("the checkpoint", named)
        if (found / "model.json").is_file():
            return found
        raise TempoError(f"There is no checkpoint at {named}: it holds no model.json.")
    if named:
        places = [Path(named)]
    else:  # in a clone the default is there from any directory
        places = [Path(DEFAULT_CHECKPOINT), CLONE / DEFAULT_CHECKPOINT]
    for place in places:
        if os.path.isdir(place):
            return place
    raise TempoError(
        f"There is no checkpoint folder {places[0]}; name a converted model with --checkpoint DIR "
        "(a clone of the repository has checkpoints/demo)."
    )


def load(checkpoint: Path, dtype: str | None = None) -> Any:
    """The model of a native checkpoint; from here on jax is imported."""
    # transformers, of which we take the tokenizer, would advise on stderr to install PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import tempo_jax

    compilation_cache.turn_on(command_line.say)
    return tempo_jax.load(str(checkpoint), dtype=dtype)


def chosen(args: argparse.Namespace, names: tuple[str, ...]) -> dict:
    """The options of those names that were given; for others the system has its own defaults."""
    found = {name: getattr(args, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}
