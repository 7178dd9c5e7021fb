"""Write a minireel benchmark: videos, and one JSON line per question with its ground truth.

    python -m tempo_jax.data.minireel OUT --split test --count 10 --seconds 120

makes OUT/videos/test-000000-120s.mp4 and so on, and OUT/test.jsonl. The same arguments make the same
questions and frames everywhere. Exit status: 0 success, 2 a user's mistake (one sentence on stderr).
"""

import argparse
import json
import sys
from pathlib import Path

from tempo_jax.data.minireel import reel as reels
from tempo_jax.data.minireel import world
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, text
from tempo_jax.utils.paths import check_local


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = command_line.Parser("minireel", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder to write to, made if it is not there")
    add("--split", choices=list(world.SPLITS), default="test", help="default: test")
    add("--count", type=command_line.number(int, 1), default=10, metavar="N", help="videos (default 10)")
    add(
        "--start",
        type=command_line.number(int, 0),
        default=0,
        metavar="N",
        help="index of the first (default 0)",
    )
    above_0 = command_line.number(float, 0, open_end=True)
    add("--seconds", type=above_0, metavar="S", help="length of each, 8 to 21600 (default: it varies)")
    add("--fps", type=above_0, default=2.0, metavar="F", help="frames per second recorded (default 2)")
    add(
        "--size",
        type=command_line.number(int, 32),
        default=96,
        metavar="P",
        help="height and width (default 96)",
    )
    add("--overwrite", action="store_true", help="replace a question file of this name")
    return parser


def write(args: argparse.Namespace) -> int:
    """Write the videos, then the questions under their final name: a file that is there is complete."""
    check_local("the folder", args.out)
    target = args.out / f"{args.split}.jsonl"
    if target.exists() and not args.overwrite:
        raise TempoError(f"{target} exists already: choose another folder or pass --overwrite.")
    chosen = {"seconds": args.seconds, "size": args.size, "fps": args.fps}
    reels.make(args.split, args.start, **chosen)  # a mistake shows before anything is written
    (args.out / "videos").mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(args.start, args.start + args.count):
        reel = reels.make(args.split, index, **chosen)
        reel.write(args.out / "videos" / f"{reel.name}.mp4")
        lines += [json.dumps(row) + "\n" for row in reels.benchmark_rows(reel)]
    fresh = target.with_name(f".{target.name}.incomplete")
    fresh.write_text("".join(lines), encoding="utf-8")
    fresh.replace(target)
    print(f"{target}: {len(lines)} questions on {text.count(args.count, 'video')}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return command_line.run_on_cpu("minireel", lambda: write(args))


if __name__ == "__main__":
    sys.exit(main())
