"""Validation of a run: loss per label on held-out data, and answers to a few questions."""

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
from tempo_jax.training import param_groups, peers, step
from tempo_jax.training.run_state import TrainRun
from tempo_jax.video import open_video

SHOWN_FRAMES, SHOWN_HEIGHT = 4, 128  # of the logged frames of a question's video


class Validation:
    """Validates one run on the same batches each time; every process calls it."""

    def __init__(self, run: TrainRun, make_batches: Callable[..., Any]):
        """Raises TempoError for sources and videos that are missing."""
        self._run, self._make, self._shown = run, make_batches, False
        self._settings = settings = run.config.validation
        config = ConfigDict(run.config.to_dict())
        config.data.sources = tuple(ConfigDict(dict(source)) for source in settings.sources)
        config.data.workers = 0
        self._config = config
        self._tokenizer = Tokenizer(run.tokenizer_folder)
        self._batches().close()  # a missing source is reported before the first step
        self._files = {question.video: _check_readable(question.video) for question in settings.questions}
        task, dtype = TASKS[run.config.task], jnp.dtype(run.config.dtype)
        self._loss = jax.jit(
            step.make_loss(run.model.config, task=task, dtype=dtype, shards=config.batch.shards)
        )

    def loss(self) -> dict[str, float]:
        """Returns "validation_loss", nats per label over all hosts, and "validation_tokens", the labels."""
        total, tokens = 0.0, 0.0
        batches = self._batches()
        try:
            for _ in range(self._settings.batches):
                placed = self._run.layout.place(next(batches))
                batch_loss = jax.device_get(self._loss(self._run.state.trainable, self._run.frozen, placed))
                total, tokens = total + float(batch_loss.total), tokens + float(batch_loss.tokens)
        finally:
            batches.close()
        return {"validation_loss": total / max(tokens, 1.0), "validation_tokens": tokens}

    def _batches(self) -> Any:
        return self._make(self._config, self._tokenizer, self._run.model.config, self._run.layout.shards)

    def answers(self) -> list[dict]:
        """Answers each question with the current weights, on the whole mesh.

        Returns:
          {"video", "question", "text"} of each question.
        """
        if not self._settings.questions:
            return []
        system, answers = self._system(), []
        for question in self._settings.questions:
            # All processes answer or none does: one alone would wait forever, and no answer is worth a run.
            if peers.all_agree(_file_state(question.video) == self._files[question.video]):
                text = self._answer(system, question)
            else:
                text = "(not answered: its video is missing or has been replaced)"
            answers.append({"video": question.video, "question": question.question, "text": text})
        return answers

    def _answer(self, system: Any, question: ConfigDict) -> str:
        limits = {"max_frames": question.max_frames} if "max_frames" in question else {}
        new_tokens = self._settings.max_new_tokens
        return system.ask(question.video, question.question, max_new_tokens=new_tokens, **limits).text

    def pictures(self) -> list[np.ndarray]:
        """Returns a strip of frames of each question's video, the first time and on process 0; then none."""
        shown, self._shown = self._shown, True
        if shown or jax.process_index() != 0:
            return []
        return [_frame_strip(question.video) for question in self._settings.questions]

    def __call__(self) -> tuple[dict[str, float], list[dict]]:
        """Returns the loss with its duration, and the answers."""
        started = time.perf_counter()
        numbers, answers = self.loss(), self.answers()
        return numbers | {"validation_seconds": time.perf_counter() - started}, answers

    def _system(self) -> Any:
        """Makes of the weights in training what `tempo_jax.load` makes of a checkpoint."""
        from tempo_jax.tempo.engine import Tempo
        from tempo_jax.xcomp.engine import XComp

        run, dtype = self._run, jnp.dtype(self._run.config.dtype)
        # Copies, since the engine takes ownership of its parameters.
        params = param_groups.merge(step.cast(run.state.trainable, dtype), step.cast(run.frozen, dtype))
        make = {"tempo": Tempo, "xcomp": XComp}[run.model.kind]
        return make(run.model.config, params, self._tokenizer, mesh=run.mesh if run.mesh.size > 1 else None)


def _check_readable(video: str) -> tuple[int, int]:
    """Reads a question's video once, before the first step, and returns its file state."""
    if not Path(video).exists():
        raise TempoError(
            f"config.validation.questions asks about {video}, which is missing: every host reads it"
        )
    for _ in open_video(video).chunks(SHOWN_FRAMES):
        pass
    return _file_state(video)


def _file_state(video: str) -> tuple[int, int] | None:
    """Returns size and modification time of a file or folder, None where there is none."""
    try:
        state = Path(video).stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _frame_strip(video: str) -> np.ndarray:
    """Returns a few frames side by side, [H, W, 3]."""
    source = open_video(video, max_frames=SHOWN_FRAMES, min_frames=1)
    frames = np.concatenate(list(source.chunks(SHOWN_FRAMES)))[:SHOWN_FRAMES]
    tiles = []
    for frame in frames:
        width = max(1, round(frame.shape[1] * SHOWN_HEIGHT / frame.shape[0]))
        tiles.append(np.asarray(Image.fromarray(frame).resize((width, SHOWN_HEIGHT))))
    return np.concatenate(tiles, axis=1)
