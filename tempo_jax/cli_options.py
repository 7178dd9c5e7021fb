"""What the commands share: options, checks before anything slow, loading, exit statuses, lines on stderr.

Nothing above `load` imports jax, so that `--help` and bad arguments answer at once.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempo_jax import compilation_cache
from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

DEFAULT_CHECKPOINT = "checkpoints/demo"
STRATEGIES = ("head", "tail", "random", "tome", "uniform", "local", "global")
DTYPES = ("bfloat16", "float32", "int8", "fp8")
SAMPLINGS = ("time", "index")
SAMPLING_HELP = (
    "of videos whose frame rate varies: evenly in time at the frames' own times (time, the default) "
    "or by frame number at the average rate, as released (index)"
)
DTYPE_HELP = "compute in this type (default: as stored); int8, fp8: bfloat16 with weights in 8 bits"
READING_OPTIONS = ("sampling", "source_fps", "exif", "square_pixels")  # of video.Reading
OPEN_OPTIONS = ("fps", "min_frames", "max_frames", *READING_OPTIONS)
LP_COMP = ("none", "suffix", "prefix", "released", "paper", "uniform", "steps")
ASK_OPTIONS = ("budget", "strategy", "compress", "lp_comp", "max_new_tokens", "temperature")
STOPPED = "stopped by {signal}; nothing is left of what was being written"
MOST = 2**31 - 1  # what an int32 holds, for every number of a command line


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors instead of a page of usage."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def number(kind: type, low: float, open_end: bool = False) -> Callable[[str], Any]:
    """An argparse type: an int32 or finite float that is at least `low` (or above it)."""
    what = "a whole number" if kind is int else "a number"
    bound = f"{'above' if open_end else 'of at least'} {low:g}"

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        in_range = low < value if open_end else low <= value
        if not in_range:  # NaN is in no range
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {bound}")
        if value > MOST:
            raise argparse.ArgumentTypeError(f"{text!r} is above {MOST}, the most there can be")
        return value

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
    add(
        "--budget",
        type=number(int, 1),
        metavar="N",
        help="visual tokens to spend (default 8192; XComp: 8192 from 1024 frames on, else all)",
    )
    add(
        "--fps",
        type=number(float, 0, True),
        metavar="F",
        help="frames per second to look at (2; XComp: 8)",
    )
    add("--min-frames", type=number(int, 1), metavar="N", help="look at no fewer frames (4; XComp: 128)")
    add("--max-frames", type=number(int, 1), metavar="N", help="look at no more frames (1024)")
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
    group.add_argument("--max-new-tokens", type=number(int, 1), default=1024, metavar="N", help="(1024)")
    group.add_argument(
        "--temperature", type=number(float, 0), default=0.0, metavar="T", help="0 is greedy (the default)"
    )


def add_no_cache(group: argparse._ActionsContainer) -> None:
    """The option of every command that computes."""
    group.add_argument(
        "--no-cache", action=compilation_cache.NoCache, help="compile anew, and keep nothing of it"
    )


def add_reading_options(group: argparse._ArgumentGroup) -> None:
    """How files are read: the fields of `video.Reading`."""
    add = group.add_argument
    add("--sampling", choices=SAMPLINGS, help=SAMPLING_HELP)
    add(
        "--source-fps",
        type=number(float, 0, True),
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
        places = [Path(DEFAULT_CHECKPOINT), Path(__file__).resolve().parent.parent / DEFAULT_CHECKPOINT]
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

    compilation_cache.turn_on(say)
    return tempo_jax.load(str(checkpoint), dtype=dtype)


def chosen(args: argparse.Namespace, names: tuple[str, ...]) -> dict:
    """The options of those names that were given; for others the system has its own defaults."""
    found = {name: getattr(args, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def clean_text(text: str) -> str:
    """Lone surrogates (bytes of a command line that are not UTF-8) replaced; no tokenizer takes them."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def utf8_stdout() -> None:
    """JSON is UTF-8 whatever the terminal's encoding."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # file names need not be valid UTF-8


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def run(prog: str, command: Callable[[], int], interrupted: str = "") -> int:
    """Exit status: what `command` returns; 2 a mistake, 75 try again, 130 interrupted, 1 a bug of ours.

    interrupted: said at Ctrl-C, where anything is.
    """
    try:
        return command()
    except TempoError as error:
        say(f"{prog}: {error}")
        return error.status
    except KeyboardInterrupt:
        if interrupted:
            say(f"{prog}: {interrupted.format(signal='Ctrl-C')}")
        return 130
    except Exception as error:
        if os.environ.get("TEMPO_JAX_TRACEBACK"):
            raise
        say(f"{prog}: {bug(error)}")
        return 1


def run_on_cpu(prog: str, command: Callable[[], int], stopped_words: str = STOPPED) -> int:
    """The same for converting and preparing: what the system refuses them is a user's mistake.

    A signal ends them in one line, after what they had begun to write is gone: 130 for Ctrl-C, 143 for
    SIGTERM, 129 for a terminal that closes. stopped_words: what is said then, with {signal} in it.
    """
    from tempo_jax import failures, signals

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # they take no accelerator from their users

    def refusals() -> int:
        with failures.as_sentences():
            return command()

    try:
        with signals.raising():
            return run(prog, refusals, interrupted=stopped_words)
    except signals.Stopped as stopped:
        say(f"{prog}: {stopped_words.format(signal=stopped)}")
        return stopped.status


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def bug(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or ["no message"])[0]
    return (
        f"internal error: {type(error).__name__}: {first_line} "
        "(this is a bug; TEMPO_JAX_TRACEBACK=1 shows where it happened)"
    )
