"""`tempo warmup`: pre-populates the XLA compilation cache."""

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
Run questions on blank videos of the given sizes, so that XLA's compiled programs are in the compilation cache
of ask, batch, serve and eval.py: $JAX_COMPILATION_CACHE_DIR or the user's cache. Entries are valid for the
same devices and versions."""
# Cache programs of any size and compile time.
ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def add_parser(commands: Any) -> None:
    """Adds the subcommand and its options."""
    warmup = commands.add_parser(
        "warmup",
        help="pre-populate the XLA compilation cache",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    warmup.add_argument("--checkpoint", metavar="DIR", help="folder of a converted model")
    warmup.add_argument(
        "--cache", metavar="DIR", help=f"folder of the compilation cache (default: {_default()})"
    )
    warmup.add_argument(
        "--size", action="append", metavar="HxW", help="size of the frames; may be repeated (720x1280)"
    )
    add = warmup.add_argument
    frames = common.field_type("max_frames")
    add(
        "--frames",
        action="append",
        type=frames,
        metavar="N",
        help="number of sampled frames; may be repeated (1024)",
    )
    common.add_field(warmup, "budget", "default: 8192", default=8192)
    common.add_field(warmup, "max_new_tokens", "default: 1024", default=1024)
    add("--dtype", choices=common.DTYPES, help=common.DTYPE_HELP)
    warmup.set_defaults(run=run_warmup)


def run_warmup(args: argparse.Namespace) -> int:
    """Runs one question on a blank video for every size and number of frames."""
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
    hint = "use it" if cache == usual else f"use it with {compilation_cache.FOLDER}={cache}"
    command_line.say(f"the compiled programs are in {cache}; later commands {hint}")
    return 0


def _default() -> str:
    """The default cache folder, with ~ for the home folder; help texts contact no bucket."""
    named = os.environ.get(compilation_cache.FOLDER, "")
    if paths.url(named):
        return named
    home, path = Path.home(), compilation_cache.folder()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise TempoError(f"--size {text} is not a frame size: give HEIGHTxWIDTH in pixels, as in 720x1280")
    return int(match[1]), int(match[2])
