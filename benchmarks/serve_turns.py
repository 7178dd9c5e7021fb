"""Latency of short questions while another client's long answer is decoded or its programs compile.

    python benchmarks/serve_turns.py

One server with the demo model and two open videos, twice in one run: answers that keep the device to their
end, compiling included, as this server did it until December 2026, and answers in slices, compiled off their
turn. One client asks short questions (4 tokens), all shapes of which are compiled, one after the other:
seconds until the end of each. Meanwhile a second client asks for --rounds answers of 1024 tokens; then it
asks questions whose buckets are new (other budgets and lengths of answers), each of which compiles. Exit
status 1 when the 95th percentile of the short ones is not lower in slices, in both.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
from serve_load import percentile

import tempo_jax
from tempo_jax.runtime import compiling
from tempo_jax.serve import app, device, model, run
from tempo_jax.serve.files import MediaFolders
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.service import Service
from tempo_jax.serve.uploads import Uploads
from tempo_jax.video.synthetic import SyntheticVideo, write_video

REPO = Path(__file__).resolve().parent.parent
PATIENCE = 600
SHORT = {"max_new_tokens": 4, "budget": 64}
LONG = {"max_new_tokens": 1024}
NEW = [
    {"max_new_tokens": tokens, "budget": budget, "strategy": strategy}
    for tokens, budget, strategy in ((8, 300, "tail"), (100, 600, "uniform"), (300, 900, "head"))
]


class Whole(device.Answering):
    """An answer that keeps the device to its end."""

    over = False

    def give(self) -> bool:
        return super().give() if self.over else False


@contextlib.contextmanager
def whole(self: device.Device) -> Iterator[device.Answering]:
    """In place of Device.answering."""
    turn = Whole(self, lambda: False)
    turn.take(lambda: None)
    try:
        yield turn
    finally:
        turn.over = True
        turn.give()


def ask(client: httpx.Client, video: str, settings: dict) -> float:
    """Seconds until the answer is complete."""
    body = {"video": video, "question": "Where is it?", "settings": settings}
    began = time.perf_counter()
    reply = client.post("/api/questions", json=body).text
    if "event: done" not in reply:
        sys.exit(reply[-500:])
    return time.perf_counter() - began


def beside(address: str, video: str, work: Callable[[httpx.Client], None]) -> list[float]:
    """Seconds of each short question while another client does `work`."""
    seconds, over = [], threading.Event()

    def short() -> None:
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            client.get("/api/session")  # a session of its own
            while not over.is_set():
                seconds.append(ask(client, video, SHORT))
                over.wait(0.05)

    thread = threading.Thread(target=short)
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        client.get("/api/session")
        thread.start()
        try:
            work(client)
        finally:
            over.set()
            thread.join()
    return seconds


def measure(address: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of the short questions beside each kind of work."""
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        videos = [video["id"] for video in client.get("/api/videos").json()["videos"]]
        for video in videos:
            for settings in (SHORT, LONG):
                ask(client, video, settings)

    def long(client: httpx.Client) -> None:
        for _ in range(rounds):
            ask(client, videos[0], LONG)

    def new(client: httpx.Client) -> None:
        for settings in NEW:
            ask(client, videos[0], settings)

    return {
        "by itself": beside(address, videos[1], lambda _: time.sleep(5)),
        "beside a long answer": beside(address, videos[1], long),
        "beside compiling": beside(address, videos[1], new),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    found, sliced = {}, device.Device.answering
    with tempfile.TemporaryDirectory() as home:
        for name in "ab":
            write_video(Path(home) / f"{name}.mp4", SyntheticVideo(seconds=240, fps=4, height=90, width=160))
        tempo = tempo_jax.load(REPO / "checkpoints" / "demo")
        unused = tempo.config.eos_ids[0] - 1  # so that answers end where they are cut, and not before
        tempo.config = dataclasses.replace(tempo.config, eos_ids=(unused,))
        loaded = model.TempoModel(tempo, "demo")
        for mode, answering in (("whole", whole), ("slices", sliced)):
            compiling.clear_caches()
            device.Device.answering = answering
            service = Service(loaded, Limits(waiting=64)).start()
            uploads = Uploads(service.limits)
            made = app.create_app(service, MediaFolders([Path(home)]), uploads, page=None)
            with run.running(made.state.guarded, service) as address:
                found[mode] = measure(address, args.rounds)
                for case, seconds in found[mode].items():
                    p50, p95 = percentile(seconds, 0.5), percentile(seconds, 0.95)
                    line = (
                        f"p50 {p50:6.2f} s  p95 {p95:6.2f} s  most {max(seconds):6.2f} s  of {len(seconds)}"
                    )
                    print(f"{case:20} {mode:6} {line}", flush=True)
            uploads.close()
    good = True
    for case in found["whole"]:
        p95 = {mode: percentile(seconds[case], 0.95) for mode, seconds in found.items()}
        print(f"{case:20} p95, before : after = {p95['whole'] / p95['slices']:.1f} : 1")
        good = good and (case == "by itself" or p95["slices"] < p95["whole"])
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
