"""For tests of the server: a model that needs no computing, small videos, a service around them."""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.models.presets import DEMO
from tempo_jax.runtime.results import Answer, Segment
from tempo_jax.serve.events import Completed, Failed
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.service import Job, Service
from tempo_jax.serve.store import FrameSampling, video_file
from tempo_jax.tempo.options import Options
from tempo_jax.video.sources import Source
from tempo_jax.video.synthetic import SyntheticVideo, write_video

REPO = Path(__file__).resolve().parent.parent
SMALL = SyntheticVideo(seconds=8, fps=4, height=48, width=64)


class FakeModel:
    """Reads every frame, then answers with the video's name and the question, word by word.

    The question decides what happens: "bug", "mistake", "slow" (until `go` is set, or cancelled), "long" (the
    same, giving way to others between slices).
    """

    name = "fake"
    video = DEMO.video
    sampler = None
    frames = FrameSampling()
    strategies = ("head", "tail")
    eos_ids = (2,)

    def __init__(self, held_bytes=1000, seconds=0.0):
        self.go, self.reached = threading.Event(), threading.Event()
        self.bytes, self.seconds = held_bytes, seconds
        self.opened, self.batches, self.stopped, self.conversations = [], [], [], []

    def options(self, **values):
        return Options(**values)

    def prepare(self, source, keep_bytes):
        return FakeClip(self, source)

    def open(self, clip, progress):
        frames = 0
        for chunk in clip.source.chunks(8):
            frames += len(chunk)
            progress("decoding", frames, clip.source.num_frames)
        self.opened.append(clip.source.name)

    def held_bytes(self, clip):
        return self.bytes


@dataclasses.dataclass
class FakeClip:
    model: FakeModel
    source: Source

    def answer(self, turns):
        self.model.batches.append([turn.question for turn in turns])
        for turn in turns:
            self.model.conversations.append(tuple(map(tuple, turn.conversation)))
            try:
                self._one(turn)
            except Exception as error:
                turn.error = error

    def _one(self, turn):
        source, model = self.source, self.model
        if "bug" in turn.question:
            raise ZeroDivisionError("a bug")
        if "mistake" in turn.question:
            raise TempoError("This cannot be asked: ask something else.")
        words = f"{source.name} says {turn.question}".split(" ")
        for number, word in enumerate(words):
            turn.on_text(" " * (number > 0) + word)
            time.sleep(model.seconds)
            if "long" in turn.question and number == 1:
                model.reached.set()
                while not model.go.wait(0.01):
                    turn.progress("generating", number + 1, len(words))
            if "slow" in turn.question and number == 1:
                model.reached.set()
                while not model.go.wait(0.01):
                    if turn.is_cancelled():
                        model.stopped.append(turn.question)
                        return
        segments = [
            Segment(i, s.start_seconds, s.end_seconds, 0.9 if i == 1 else 0.1, 128 if i == 1 else 4)
            for i, s in enumerate(source.segments())
        ]
        usage = {
            "frames": source.num_frames,
            "segments": len(segments),
            "budget": turn.options.budget,
            "visual_tokens": 132,
            "tokens_per_frame": 8.25,
            "prompt_tokens": 160,
            "new_tokens": len(words),
        }
        timings = {"video": 0.0, "compress": 0.1, "first_token": 0.2, "answer": 0.2, "total": 0.3}
        turn.answer = Answer(" ".join(words), [5] * len(words), segments, usage, timings)


@contextlib.contextmanager
def service_of(model=None, **limits):
    limits = {"decode_seconds": 100.0, "upload_bytes": 1 << 20, "inline_bytes": 1 << 20, **limits}
    service = Service(model or FakeModel(), Limits(**limits)).start()
    try:
        yield service
    finally:
        if isinstance(service.model, FakeModel):
            service.model.go.set()
        service.close()


class Heard:
    """A job and the events its listener has got."""

    def __init__(self, service, path, question="What?", frames=None, client="", **options):
        self.events, self._over = [], threading.Event()
        video = video_file(Path(path), Path(path).name)
        self.job = Job(
            video,
            question,
            frames or service.model.frames,
            service.model.options(**options),
            self._receive,
            client,
        )
        service.submit(self.job)

    def _receive(self, event):
        self.events.append(event)
        if isinstance(event, Completed | Failed):
            self._over.set()

    def end(self):
        assert self._over.wait(120), self.events
        return self.events[-1]


def make_videos(folder: Path, count=2) -> list[Path]:
    paths = [folder / f"v{i}.mp4" for i in range(count)]
    for path in paths:
        write_video(path, SMALL)
    return paths


@contextlib.contextmanager
def serving_process(*arguments):
    """(process, address, its further lines on stderr) of a Python program that runs `tempo serve`."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        lines = iter(process.stderr.readline, "")
        address = next(found[1] for line in lines if (found := re.search(r"(http://\S+)/$", line.strip())))
        yield process, address, lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_until(condition):
    end = time.monotonic() + 120  # seconds, for machines that are busy with something else
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
