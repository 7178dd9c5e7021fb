"""`tempo warmup`: compiles what questions will need into a folder, so that the first one does not wait."""

import argparse
import contextlib
import os
import re
import sys
import time
from typing import Any

from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, paths

HELP = """\
Asks blank videos of the sizes you name, with XLA's compilation cache in a folder. Later commands find the
programs there when they are started with JAX_COMPILATION_CACHE_DIR=DIR on the same devices and versions."""
# Programs of any size and compile time are kept.
ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
CACHE = "JAX_COMPILATION_CACHE_DIR"


def add_parser(commands: Any) -> None:
    """The subcommand and its options."""
    warmup = commands.add_parser(
        "warmup",
        help="compile ahead of the first question",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    warmup.add_argument("--checkpoint", metavar="DIR", help="folder of a converted model")
    warmup.add_argument("--cache", metavar="DIR", help=f"where programs are kept (default: ${CACHE})")
    warmup.add_argument(
        "--size", action="append", metavar="HxW", help="of the videos' frames; may be repeated (720x1280)"
    )
    add = warmup.add_argument
    frames = command_line.number(int, 1)
    add("--frames", action="append", type=frames, metavar="N", help="looked at; may be repeated (1024)")
    add("--budget", type=command_line.number(int, 1), default=8192, metavar="N", help="visual tokens (8192)")
    add("--max-new-tokens", type=command_line.number(int, 1), default=1024, metavar="N", help="(1024)")
    add("--dtype", choices=common.DTYPES, help=common.DTYPE_HELP)
    warmup.set_defaults(run=run_warmup)


def run_warmup(args: argparse.Namespace) -> int:
    """One blank question for every size and number of frames."""
    sizes = [_size(text) for text in args.size or ["720x1280"]]
    cache = args.cache or os.environ.get(CACHE)
    if not cache:
        raise TempoError(f"there is no folder for the compiled programs: give --cache DIR, or set {CACHE}")
    cache = str(paths.absolute(paths.path("the cache", cache)))
    checkpoint = common.checkpoint_folder(args.checkpoint)
    os.environ.update(ENVIRONMENT | {CACHE: cache})
    import numpy as np

    with contextlib.redirect_stdout(sys.stderr):
        tempo = common.load(checkpoint, args.dtype)
        for height, width in sizes:
            for frames in args.frames or [1024]:
                started = time.perf_counter()
                video = np.broadcast_to(np.uint8(0), (frames, height, width, 3))
                tempo.ask(
                    video,
                    "What happens?",
                    budget=args.budget,
                    max_frames=frames,
                    max_new_tokens=args.max_new_tokens,
                )
                seconds = time.perf_counter() - started
                command_line.say(f"{frames} frames of {height}x{width}: {seconds:.1f} s")
    command_line.say(f"start later commands with {CACHE}={cache}")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise TempoError(f"--size {text} is no size of frames: give HEIGHTxWIDTH in pixels, as in 720x1280")
    return int(found[1]), int(found[2])
