"""Answers questions over a pipe: for programs whose packages do not go together with ours.

    python -m tempo_jax.evaluation.serve '{"checkpoint": "checkpoints/tempo-6b", "min_frames": 8}'

The options are those of `tempo_jax.load` (checkpoint, dtype, context_length) and of `Tempo.open` and `ask`,
the same for all questions. Each line of stdin is a question, {"video": path, "prompt": text,
"max_new_tokens": number}; each line of stdout its answer, {"text": ..., "usage": ...} or {"error":
sentence}. The first line of stdout is {"ready": true} or {"error": sentence}. Questions that follow each
other about one video share its decoding and vision.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.utils.command_line import bug
from tempo_jax.utils.text import clean_text

LOADING = ("dtype", "context_length")
OPENING = ("fps", "min_frames", "max_frames")
ASKING = ("budget", "strategy", "compress", "seed")


def replies(options: dict[str, Any], lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What is said: that the model is there, then an answer for every line."""
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
                name, clip = None, None  # makes room for the next one
                clip = tempo.open(question["video"], **opening)
                name = question["video"]
            answer = clip.ask(
                clean_text(question["prompt"]), max_new_tokens=question["max_new_tokens"], **asking
            )
            yield {"text": answer.text, "usage": dict(answer.usage), "warnings": list(answer.warnings)}
        except Exception as error:
            yield {"error": str(error) if isinstance(error, TempoError) else bug(error)}


def _start(options: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    known = ("checkpoint", *LOADING, *OPENING, *ASKING)
    if unknown := options.keys() - set(known):
        raise TempoError(f"there is no option {', '.join(sorted(unknown))}: use some of {', '.join(known)}")
    import tempo_jax

    chosen = [
        {name: options[name] for name in names if name in options} for names in (LOADING, OPENING, ASKING)
    ]
    return tempo_jax.load(options.get("checkpoint", ""), **chosen[0]), chosen[1], chosen[2]


def main() -> None:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints must not get between answers
        for reply in replies(json.loads(sys.argv[1]), sys.stdin):
            print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
