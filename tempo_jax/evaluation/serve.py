"""Answers questions over a pipe, for programs whose packages conflict with those of this project.

    python -m tempo_jax.evaluation.serve '{"checkpoint": "checkpoints/tempo-6b", "min_frames": 8}'

The options are those of `tempo_jax.load` (checkpoint, dtype, context_length) and of `Tempo.open` and `ask`,
the same for all questions. Each line of stdin is a question, {"video": path, "prompt": text,
"max_new_tokens": number}; each line of stdout its answer, {"text": ..., "usage": ...} or {"error":
message}. The first line of stdout is {"ready": true} or {"error": message}. Consecutive questions about one
video share its decoding and encoding.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.utils.command_line import internal_error
from tempo_jax.utils.text import clean_text

LOAD_OPTIONS = ("dtype", "context_length")
OPEN_OPTIONS = ("fps", "min_frames", "max_frames")
ASK_OPTIONS = ("budget", "strategy", "compress", "seed")


def replies(options: dict[str, Any], lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields the lines of stdout: that the model is ready, then an answer for every line of stdin."""
    try:
        tempo, opening, asking = _start(options)
    except TempoError as error:
        yield {"error": str(error)}
        return
    yield {"ready": True}
    name, clip = None, None
    for line in lines:
        try:
            question = json.loads(line)
            if question["video"] != name:
                name, clip = None, None  # frees memory for the next one
                clip = tempo.open(question["video"], **opening)
                name = question["video"]
            answer = clip.ask(
                clean_text(question["prompt"]), max_new_tokens=question["max_new_tokens"], **asking
            )
            yield {"text": answer.text, "usage": dict(answer.usage), "warnings": list(answer.warnings)}
        except Exception as error:
            yield {"error": str(error) if isinstance(error, TempoError) else internal_error(error)}


def _start(options: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    known = ("checkpoint", *LOAD_OPTIONS, *OPEN_OPTIONS, *ASK_OPTIONS)
    if unknown := options.keys() - set(known):
        raise TempoError(f"there is no option {', '.join(sorted(unknown))}: use some of {', '.join(known)}")
    import tempo_jax

    chosen = [
        {name: options[name] for name in names if name in options}
        for names in (LOAD_OPTIONS, OPEN_OPTIONS, ASK_OPTIONS)
    ]
    return tempo_jax.load(options.get("checkpoint", ""), **chosen[0]), chosen[1], chosen[2]


def main() -> None:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # output of libraries must not mix with answers
        for reply in replies(json.loads(sys.argv[1]), sys.stdin):
            print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
