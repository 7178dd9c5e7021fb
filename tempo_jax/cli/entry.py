"""The `tempo` command: one module per subcommand.

Answers go to stdout; progress, warnings and errors to stderr. Exit status: 0 success, 1 internal error
(TEMPO_JAX_TRACEBACK=1 shows the traceback), 2 usage error or invalid input, 130 interrupted, 141 broken
pipe. Errors are one line.

Nothing here imports jax before the arguments have been checked, so that `--help` takes no time.
"""

import argparse
import os
import sys
from importlib import metadata

from tempo_jax.cli import ask, batch, completion, doctor, plan, serve, warmup
from tempo_jax.utils import command_line

EXAMPLES = """\
examples:
  tempo ask holiday.mp4 "When does the dog jump into the water?"
  tempo ask lecture.mp4 "Summarize the second part." --budget 4096 --plot tokens.png
  tempo ask clip.mp4 "How many people?" --json | jq .text
  tempo batch cases.json --out answers.jsonl
  tempo serve

The model is --checkpoint DIR, else $TEMPO_CHECKPOINT, else checkpoints/demo.
"""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = command_line.Parser("tempo", description=ask.DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"tempo {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (ask, batch, plan, warmup, serve, doctor, completion):
        command.add_parser(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("tempo_jax")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main(argv: list[str] | None = None) -> int:
    """Runs a command line and returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # terminals of other encodings show "?"
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
            # Else Python reports the broken pipe again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    return command_line.run("tempo", answer)


def command() -> None:
    """Entry point of the `tempo` program."""
    status = main()
    if status == 2:
        # Pending reads of a damaged checkpoint would print tracebacks while Python shuts down; after a
        # usage error there is nothing to clean up.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
