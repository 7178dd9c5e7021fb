"""What a run knows of data that it does not learn from: loss per token, and answers to a few questions."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import TASKS
from tempo_jax.training import groups, peers, step
from tempo_jax.training.run import Run
from tempo_jax.video import open_video

SHOWN_FRAMES, SHOWN_HEIGHT = 4, 128  # of a question's video


class Validation:
    """Of one run; every process calls it. The batches are the same each time."""

    def __init__(self, run: Run, make_batches: Callable[..., Any]):
        """TempoError for sources and videos that are not there."""
        self._run, self._make, self._shown = run, make_batches, False
        self._settings = settings = run.config.validation
        config = ConfigDict(run.config.to_dict())
        config.data.sources = tuple(ConfigDict(dict(source)) for source in settings.sources)
        config.data.workers = 0
        self._config = config
        self._tokenizer = Tokenizer(run.tokenizer_folder)
        self._batches().close()  # a source that is not there shows before the first step
        self._files = {question.video: _readable(question.video) for question in settings.questions}
        task, dtype = TASKS[run.config.task], jnp.dtype(run.config.dtype)
        self._loss = jax.jit(
            step.make_loss(run.model.config, task=task, dtype=dtype, shards=config.batch.shards)
        )

    def loss(self) -> dict[str, float]:
        """ "validation_loss", nats per label over all batches and hosts, and how many labels that were."""
        total, tokens = 0.0, 0.0
        batches = self._batches()
        try:
            for _ in range(self._settings.batches):
                placed = self._run.layout.place(next(batches))
                more = jax.device_get(self._loss(self._run.state.learning, self._run.frozen, placed))
                total, tokens = total + float(more.total), tokens + float(more.tokens)
        finally:
            batches.close()
        return {"validation_loss": total / max(tokens, 1.0), "validation_tokens": tokens}

    def _batches(self) -> Any:
        return self._make(self._config, self._tokenizer, self._run.model.config, self._run.layout.shards)

    def answers(self) -> list[dict]:
        """{"video", "question", "text"} of each question, by the weights as they are on the whole mesh."""
        if not self._settings.questions:
            return []
        system, told = self._system(), []
        for question in self._settings.questions:
            # All processes ask or none: one alone would wait for ever, and a week's run needs no answer.
            if peers.all_of(_state(question.video) == self._files[question.video]):
                text = self._answer(system, question)
            else:
                text = "(not answered: its video is not there any more, or another file)"
            told.append({"video": question.video, "question": question.question, "text": text})
        return told

    def _answer(self, system: Any, question: ConfigDict) -> str:
        limits = {"max_frames": question.max_frames} if "max_frames" in question else {}
        new_tokens = self._settings.max_new_tokens
        return system.ask(question.video, question.question, max_new_tokens=new_tokens, **limits).text

    def pictures(self) -> list[np.ndarray]:
        """A strip of frames of each question's video, the first time and on process 0; then none."""
        shown, self._shown = self._shown, True
        if shown or jax.process_index() != 0:
            return []
        return [_strip(question.video) for question in self._settings.questions]

    def __call__(self) -> tuple[dict[str, float], list[dict]]:
        """Loss and answers, and how long they took."""
        began = time.perf_counter()
        found, answers = self.loss(), self.answers()
        return found | {"validation_seconds": time.perf_counter() - began}, answers

    def _system(self) -> Any:
        """What `tempo_jax.load` makes of a checkpoint, of the weights in training."""
        from tempo_jax.tempo.engine import Tempo
        from tempo_jax.xcomp.engine import XComp

        run, dtype = self._run, jnp.dtype(self._run.config.dtype)
        # Copies, since the engine takes apart what it is given.
        params = groups.join(step.cast(run.state.learning, dtype), step.cast(run.frozen, dtype))
        make = {"tempo": Tempo, "xcomp": XComp}[run.model.kind]
        return make(run.model.config, params, self._tokenizer, mesh=run.mesh if run.mesh.size > 1 else None)


def _readable(video: str) -> tuple[int, int]:
    """Reads a question's video once, before the first step, and says which file it was."""
    if not Path(video).exists():
        raise TempoError(
            f"config.validation.questions asks about {video}, which is not there: every host reads it"
        )
    for _ in open_video(video).chunks(SHOWN_FRAMES):
        pass
    return _state(video)


def _state(video: str) -> tuple[int, int] | None:
    """Size and time of change of a file or folder; None where there is none."""
    try:
        found = Path(video).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _strip(video: str) -> np.ndarray:
    """A few frames side by side, [H, W, 3]."""
    source = open_video(video, max_frames=SHOWN_FRAMES, min_frames=1)
    frames = np.concatenate(list(source.chunks(SHOWN_FRAMES)))[:SHOWN_FRAMES]
    shown = []
    for frame in frames:
        width = max(1, round(frame.shape[1] * SHOWN_HEIGHT / frame.shape[0]))
        shown.append(np.asarray(Image.fromarray(frame).resize((width, SHOWN_HEIGHT))))
    return np.concatenate(shown, axis=1)
