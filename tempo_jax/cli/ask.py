"""`tempo ask`: one question about one video."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, paths, text
from tempo_jax.utils import progress as progress_lines

DESCRIPTION = "Ask questions about videos, from seconds to hours long."
VIDEO_HELP = "a video file, .gif, .npy array [T,H,W,3] of uint8, folder of images, or one image"


def add_parser(commands: Any) -> None:
    """Adds the subcommand and its options."""
    ask = commands.add_parser("ask", help="ask one question about one video", description=DESCRIPTION)
    ask.add_argument("video", metavar="VIDEO", help=VIDEO_HELP)
    ask.add_argument("question", metavar="QUESTION")
    common.add_model_options(ask)
    ask.add_argument(
        "--plot", metavar="FILE", help="plot the tokens allocated to each segment (.png, .pdf, .svg)"
    )
    ask.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    ask.add_argument(
        "--selector", metavar="DIR", help="XComp checkpoint that selects the frames which Tempo compresses"
    )
    ask.add_argument(
        "--selected-frames",
        type=command_line.number(int, 8),
        metavar="N",
        help="number of frames that the selector keeps (default: 512)",
    )
    ask.set_defaults(run=run_ask)


def _check_plot(plot: str | None, video: str) -> None:
    if plot is None:
        return
    from tempo_jax.runtime.plot import check_path  # matplotlib is slow to import, and so is Pillow
    from tempo_jax.video.images import SUFFIXES, is_still

    if Path(video).suffix.lower() in SUFFIXES and is_still(Path(video)):
        raise TempoError(f"{video} is one image, which has no time axis to plot; leave out --plot.")
    check_path(plot)


def run_ask(args: argparse.Namespace) -> int:
    """Answers one question, streamed as text or as one JSON object."""
    checkpoint = common.checkpoint_folder(args.checkpoint)
    if not os.path.exists(args.video):
        raise TempoError(f"There is no video {args.video}; check the path.")
    _check_plot(args.plot, args.video)
    question = text.clean_text(args.question)
    out = sys.stdout
    # Libraries may print; their output must not mix with the answer on stdout.
    with progress_lines.reporter() as progress, contextlib.redirect_stdout(sys.stderr):
        progress("loading the model", 0, 1)
        tempo = common.load(checkpoint, args.dtype)
        progress("loading the model", 1, 1)
        clip_options = common.chosen(args, common.OPEN_OPTIONS)
        ask_options = common.chosen(args, common.ASK_OPTIONS) | {"progress": progress}
        video = args.video
        if args.selector:
            video = _select_segments(tempo, args, question, clip_options | {"progress": progress})
        if args.json:
            answer = tempo.ask(video, question, **clip_options, **ask_options)
        else:
            # A single question: no features are cached.
            clip = tempo.open(video, keep=False, progress=progress, **clip_options)
            _print_pieces(clip.stream(question, **ask_options), progress, out)
            answer = clip.last_answer
    for warning in answer.warnings:
        command_line.say(f"warning: {warning}")
    if args.json:
        command_line.utf8_stdout()
        print(answer.to_json(), flush=True)
    else:
        command_line.say(_stats(answer))
    if args.plot:
        with paths.staged_file(paths.path("the plot", args.plot)) as place:
            answer.plot(str(place), title=question)
    return 0


def _select_segments(tempo: Any, args: argparse.Namespace, question: str, clip_options: dict) -> Any:
    if not hasattr(tempo, "select_segments"):
        raise TempoError("--selector selects frames for Tempo, but XComp selects its own: leave it out.")
    selector = common.load(common.checkpoint_folder(args.selector))
    frames = common.chosen(args, ("selected_frames",))
    return tempo.select_segments(args.video, question, selector, **frames, **clip_options)


def _print_pieces(pieces: Iterator[str], progress: progress_lines.Reporter, out: TextIO) -> None:
    """Prints text as it is generated; closes the progress display before the first piece."""
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
    """A line of frames, tokens and seconds."""
    usage, total = answer.usage, answer.timings.get("total")
    parts = [
        f"{text.count(usage['frames'], 'frame')} in {text.count(usage['segments'], 'segment')}",
        f"{usage['visual_tokens']} of {usage['budget']} visual tokens",
        f"{usage['tokens_per_frame']:.3g} a frame",
        f"{usage['prompt_tokens']} prompt tokens",
        text.count(usage["new_tokens"], "new token"),
    ]
    return ", ".join(parts) + (f", {total:.1f} s" if total is not None else "")
