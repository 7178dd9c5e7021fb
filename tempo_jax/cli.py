"""The `tempo` command: `ask` one question, `batch` many, `serve` everyone's, `plan` a TPU slice.

Answers go to stdout; progress, warnings and errors to stderr. Exit status: 0 success, 2 a user's
mistake (one sentence on stderr), 130 interrupted, 141 the reader of stdout went away, 1 a bug of
ours (one line; TEMPO_JAX_TRACEBACK=1 shows where).

Nothing here imports jax before the arguments have been checked, so `--help` answers at once.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from tempo_jax import cli_batch, cli_completion, cli_doctor, cli_plan, cli_serve, cli_warmup
from tempo_jax import cli_options as options
from tempo_jax import progress as progress_lines
from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

DESCRIPTION = "Ask questions about videos, from seconds to hours long."
EXAMPLES = """\
examples:
  tempo ask holiday.mp4 "When does the dog jump into the water?"
  tempo ask lecture.mp4 "Summarise the second part." --budget 4096 --plot tokens.png
  tempo ask clip.mp4 "How many people?" --json | jq .text
  tempo batch cases.json --out answers.jsonl
  tempo serve

The model is --checkpoint DIR, else $TEMPO_CHECKPOINT, else checkpoints/demo.
"""
VIDEO_HELP = "a video file, .gif, .npy array [T,H,W,3] of uint8, folder of images, or one image"
BATCH_HELP = """\
CASES.json is a list of objects with "video_path" and "query"; relative paths start at its folder.
One JSON line is written per case as soon as it is answered: the case's own fields, its index, and
the answer's fields or "error". A failed case does not stop the others; the exit status tells.
The same command goes on with an OUT.jsonl that is there: what it answers (by the same model and
options) is kept, what failed is asked again, and nothing else in it is lost (OUT.jsonl.before)."""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = options.Parser("tempo", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"tempo {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    ask = commands.add_parser("ask", help="ask one question about one video", description=DESCRIPTION)
    ask.add_argument("video", metavar="VIDEO", help=VIDEO_HELP)
    ask.add_argument("question", metavar="QUESTION")
    options.add_model_options(ask)
    ask.add_argument(
        "--plot", metavar="FILE", help="draw where in the video the tokens went (.png, .pdf, .svg)"
    )
    ask.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    ask.add_argument(
        "--selector", metavar="DIR", help="an XComp checkpoint that chooses the frames Tempo compresses"
    )
    ask.add_argument("--selected-frames", type=options.number(int, 8), metavar="N", help="it leaves (512)")
    ask.set_defaults(run=run_ask)

    batch = commands.add_parser(
        "batch", help="answer a file of cases", description=BATCH_HELP, formatter_class=raw
    )
    batch.add_argument("cases", metavar="CASES.json")
    batch.add_argument("--out", metavar="OUT.jsonl", help="write the lines there (default: stdout)")
    options.add_model_options(batch)
    batch.set_defaults(run=cli_batch.run_batch)
    for command in (cli_plan, cli_warmup, cli_serve, cli_doctor, cli_completion):
        command.add_parser(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("tempo_jax")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _check_plot(plot: str | None, video: str) -> None:
    if plot is None:
        return
    from tempo_jax.plot import check_path  # matplotlib is slow to import, and so is Pillow
    from tempo_jax.video.images import SUFFIXES, is_still

    if Path(video).suffix.lower() in SUFFIXES and is_still(Path(video)):
        raise TempoError(f"{video} is one image, which has no time axis to plot; leave out --plot.")
    check_path(plot)


def run_ask(args: argparse.Namespace) -> int:
    """Answer one question: streamed as text, or as one JSON object."""
    checkpoint = options.checkpoint_folder(args.checkpoint)
    if not os.path.exists(args.video):
        raise TempoError(f"There is no video {args.video}; check the path.")
    _check_plot(args.plot, args.video)
    question = options.clean_text(args.question)
    out = sys.stdout
    # Whatever a library prints while we work must not get into the answer.
    with progress_lines.reporter() as progress, contextlib.redirect_stdout(sys.stderr):
        progress("loading the model", 0, 1)
        tempo = options.load(checkpoint, args.dtype)
        progress("loading the model", 1, 1)
        clip_options = options.chosen(args, options.OPEN_OPTIONS)
        ask_options = options.chosen(args, options.ASK_OPTIONS) | {"progress": progress}
        video = args.video
        if args.selector:
            video = _part(tempo, args, question, clip_options | {"progress": progress})
        if args.json:
            answer = tempo.ask(video, question, **clip_options, **ask_options)
        else:
            # One question: keep nothing of it.
            clip = tempo.open(video, keep=False, progress=progress, **clip_options)
            _print_pieces(clip.stream(question, **ask_options), progress, out)
            answer = clip.last_answer
    for warning in answer.warnings:
        options.say(f"warning: {warning}")
    if args.json:
        options.utf8_stdout()
        print(answer.to_json(), flush=True)
    else:
        options.say(_stats(answer))
    if args.plot:
        with paths.staged_file(paths.path("--plot", args.plot)) as place:
            answer.plot(str(place), title=question)
    return 0


def _part(tempo: Any, args: argparse.Namespace, question: str, clip_options: dict) -> Any:
    if not hasattr(tempo, "part"):
        raise TempoError("--selector chooses frames for Tempo, but XComp chooses its own: leave it out.")
    selector = options.load(options.checkpoint_folder(args.selector))
    frames = options.chosen(args, ("selected_frames",))
    return tempo.part(args.video, question, selector, **frames, **clip_options)


def _print_pieces(pieces: Iterator[str], progress: progress_lines.Reporter, out: TextIO) -> None:
    """Print text as it comes; the progress display leaves the terminal before the first piece."""
    ended = True
    for piece in pieces:
        progress.close()
        if piece:
            print(piece, end="", flush=True, file=out)
            ended = piece.endswith("\n")
    progress.close()
    if not ended:
        print(flush=True, file=out)


def _stats(answer: Any) -> str:
    """One line of what the answer took."""
    usage, total = answer.usage, answer.timings.get("total")
    parts = [
        f"{options.count(usage['frames'], 'frame')} in {options.count(usage['segments'], 'segment')}",
        f"{usage['visual_tokens']} of {usage['budget']} visual tokens",
        f"{usage['tokens_per_frame']:.3g} a frame",
        f"{usage['prompt_tokens']} prompt tokens",
        options.count(usage["new_tokens"], "new token"),
    ]
    return ", ".join(parts) + (f", {total:.1f} s" if total is not None else "")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character shows "?"
            stream.reconfigure(errors="replace")
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)

    def answer() -> int:
        try:
            status = args.run(args)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    return options.run("tempo", answer)


def command() -> None:
    """The `tempo` program: `main`, and its status to the system."""
    status = main()
    if status == 2:
        # Reads of a damaged checkpoint that are still under way would print tracebacks while Python
        # shuts down; after a mistake there is nothing left to tidy up.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    command()
