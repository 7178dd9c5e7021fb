"""`tempo warmup`: compiles what questions will need into a folder, so that the first one does not wait."""

import argparse
import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, compilation_cache, paths

HELP = """\
Asks blank videos of the sizes you name and keeps what XLA compiles for them where ask, batch, serve and
eval.py look: in $JAX_COMPILATION_CACHE_DIR or the user's cache. It serves the same devices and versions."""
# Programs of any size and compile time are kept.
ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def add_parser(commands: Any) -> None:
    """The subcommand and its options."""
    warmup = commands.add_parser(
        "warmup",
        help="compile ahead of the first question",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    warmup.add_argument("--checkpoint", metavar="DIR", help="folder of a converted model")
    warmup.add_argument("--cache", metavar="DIR", help=f"where programs are kept (default: {_default()})")
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
    usual = paths.absolute(compilation_cache.folder())
    cache = paths.absolute(paths.path("the cache", args.cache)) if args.cache else usual
    checkpoint = common.checkpoint_folder(args.checkpoint)
    os.environ.update(ENVIRONMENT | {compilation_cache.FOLDER: str(cache)})
    compilation_cache.check_writable()
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
    found = "find it there" if cache == usual else f"find it with {compilation_cache.FOLDER}={cache}"
    command_line.say(f"what was compiled is in {cache}; later commands {found}")
    return 0


def _default() -> str:
    """As people write it."""
    home, where = Path.home(), compilation_cache.folder()
    return f"~/{where.relative_to(home)}" if where.is_relative_to(home) else str(where)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise TempoError(f"--size {text} is no size of frames: give HEIGHTxWIDTH in pixels, as in 720x1280")
    return int(found[1]), int(found[2])
