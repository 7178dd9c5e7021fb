"""Evaluations of a stand-in model: it reads every frame and answers by the question's and video's text.

python -m tests.eval_runs COPY WORKDIR ROWS        killed in the middle of the line after ROWS rows
"""

import dataclasses
import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import config as configs
from tempo_jax.evaluation import model, rows
from tempo_jax.evaluation.runner import Run
from tempo_jax.models.presets import TINY
from tempo_jax.runtime.results import Answer, Segment

REPO = Path(__file__).resolve().parent.parent


class FakeClip:
    decode_wait_seconds = 0.25

    def __init__(self, tempo, source):
        self.system, self.name = tempo, source.name
        self.frames = sum(len(chunk) for chunk in source.chunks(5))
        assert self.frames == source.num_frames

    def release(self):
        """It caches nothing."""

    def answer(self, question, options):
        self.system.asked.append((self.name, question, options))
        budget = (options.budget if options.uses_budget else 4096) if options.compress else 8192
        if budget == 13:
            raise TempoError("The question does not fit a budget of 13.")
        reply = self.system.reply(self.name, question, options)
        segments = [Segment(i, 2.0 * i, 2.0 * i + 2, 0.5 + 0.1 * i, budget // 2) for i in range(2)]
        usage = {
            "frames": self.frames, "segments": 2, "budget": budget, "visual_tokens": budget,
            "tokens_per_frame": budget / self.frames, "prompt_tokens": budget + 9, "new_tokens": 2,
        }  # fmt: skip
        warnings = ["The budget is lowered."] if budget == 77 else []
        return Answer(reply, [1, 2], segments, usage, {"compress": 0.5, "answer": 0.125}, warnings)


@dataclasses.dataclass
class Joined:
    """A request that has been prefilled."""

    session: FakeClip
    request: Any


class FakeBatch:
    """Answers when a request joins; notes what is decoded together."""

    def __init__(self, tempo):
        self.tempo = tempo

    def join(self, clip, requests):
        joined = []
        for request in requests:
            try:
                request.answer = clip.answer(request.question, request.options)
                joined.append(Joined(clip, request))
            except TempoError as error:
                request.error = error
        return joined

    def finish(self, joined):
        self.tempo.together.append([(one.session.name, one.request.question) for one in joined])


def some_letter(video, question, options):
    """One of A to D, sometimes nothing; always the same for the same."""
    digest = hashlib.sha256(f"{video}{question}{options}".encode()).digest()
    return ("A", "(B)", "C.", "The answer is D", "夢")[digest[0] % 5]


class FakeTempo:
    """Counts what is asked of it."""

    config = TINY

    def __init__(self, reply=some_letter):
        self.reply = reply
        self.asked, self.opened, self.together = [], [], []
        self.decode_batch = FakeBatch(self)

    def open(self, source, *, keep, prefix_cache, questions):
        assert keep
        self.opened.append((source.name, source.num_frames))
        return FakeClip(self, source)


def config_of(benchmark: str, folder: Path, checkpoint: Path, **changes) -> ConfigDict:
    """Of a small copy, one of whose videos is missing; decoded without worker processes unless told so."""
    config = configs.default()
    config.update(
        {"benchmark": benchmark, "checkpoint": str(checkpoint), "decode_workers": 0, "allow_missing": True}
    )
    config.data.path = str(folder)
    config.mesh.fsdp = 1
    config.update_from_flattened_dict(changes)
    return config


def evaluate(config: ConfigDict, workdir: Path, process: int = 0, processes: int = 1) -> list[str]:
    """What eval.py does with a config."""
    run = Run(config, workdir, process, processes)
    run.ask()
    return run.finish(wait=False)


def checkpoint(folder: Path, tokenizer: Path, kind: str = "tempo", config: Any = TINY) -> Path:
    """What of a checkpoint a stand-in model needs."""
    from tempo_jax.checkpoint import write_metadata

    folder.mkdir(parents=True)
    write_metadata(folder, kind, config, tokenizer, {"from": "tests"})
    (folder / "params").mkdir()  # without arrays: nothing reads them
    return folder


def main() -> None:
    copy, workdir, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    model.load = lambda config: FakeTempo()
    write = rows.Writer.write

    def kill(writer, row):
        if len(rows.read(workdir)) < count:
            return write(writer, row)
        writer._file.write(b'{"question": "half a li')
        writer._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    rows.Writer.write = kill
    evaluate(config_of("lvbench", copy, copy.parent / "model"), workdir)


if __name__ == "__main__":
    main()
