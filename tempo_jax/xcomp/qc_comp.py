"""QC-Comp: how much the question looks at each sampled frame (xcomp §3.2-3.4)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.xcomp import chunks, prompts, steps
from tempo_jax.xcomp.chunks import Windows
from tempo_jax.xcomp.frame_selection import Question
from tempo_jax.xcomp.frames import Frames
from tempo_jax.xcomp.options import Options
from tempo_jax.xcomp.select import FrameScores

if TYPE_CHECKING:
    from tempo_jax.xcomp.engine import XComp


def frame_scores(
    system: "XComp",
    frames: Frames,
    text: prompts.Text,
    prompt: steps.Prompt,
    options: Options,
    windows: Windows,
    progress: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """Scores of all sampled frames, float64 [F]: one pass of the LLM's scoring layers per chunk.

    Nothing is generated, and the layers after the last scoring one are not run.
    """
    skip = text.question_start if options.query_skip is None else options.query_skip
    if skip >= text.question_end:
        raise TempoError(
            f"query_skip is {skip}, but only {text.question_end} tokens follow the video: lower it "
            "or leave it out."
        )
    count, config = frames.count, system.config
    length = chunks.chunk_frames(count, windows)
    starts = chunks.chunk_starts(count, options.repeats, windows)
    layers = range(*config.score_layers)
    question = Question(*map(np.int32, (skip, text.question_end, len(text.suffix))))
    total = FrameScores(count, len(layers))
    prompt, question = system.place.put(prompt), system.place.put(question)
    for done, start in enumerate(starts, 1):
        alignment = start % frames.per_clip
        found = steps.score(
            system.model,
            frames.pool(alignment, progress),
            np.int32(start // frames.per_clip),
            np.int32(frames.clips),
            prompt,
            question,
            frames=length,
            plan=system.plan(options),
            layers=layers,
            windows=windows,
            causal=options.causal_scoring,
        )
        total.add(start, np.asarray(found, np.float64), windows)
        if progress:
            progress("choosing frames", done, len(starts))
    return total.scores()
