"""Queueing time of questions about open videos while a 20-minute video is opened, unsliced and sliced.

    python benchmarks/serve_load.py

One server with the demo model, two videos open. A third one of 20 minutes is opened, twice: its opening as
one slice, and chunk by chunk between answers. The first stands in, within today's code, for how this server
worked until November 2026, when one thread opened and answered: the opening keeps the device until its end,
also while it waits for frames. (What compiles has been compiled, in both.) During each,
a client of its own asks about an open video, one question after the other: how long until its turn. Then 60
mixed requests are sent by --clients clients: questions about the open videos, images, uploads, lists,
/health: how long until their end. Exit status 1 when the wait for a turn in slices is not below two chunks
at the 95th percentile.
"""

import argparse
import base64
import io
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
from PIL import Image

from tempo_jax.serve import app, device, model, run
from tempo_jax.serve.files import MediaFolders
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.service import Service
from tempo_jax.serve.uploads import Uploads
from tempo_jax.video.synthetic import SyntheticVideo, write_video

REPO = Path(__file__).resolve().parent.parent
REQUESTS = 60
SAID = {"whole": "before (stand-in: an opening is one slice)", "sliced": "after (a chunk is a slice)"}
PATIENCE = 600


class Whole(device.Turn):
    """An opening that takes the device once and gives it back at its end."""

    def __init__(self, lent, cancelled):
        super().__init__(lent, cancelled)
        self._opening = cancelled.__self__

    def give(self) -> bool:
        service = self._opening._service
        if service._openings.get(self._opening.key) is self._opening:  # it is not over
            return False
        return super().give()

    def take(self, check) -> None:
        if not self._held:
            super().take(check)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Load:
    """Requests to one address; what they took."""

    def __init__(self, address: str, videos: dict[str, str]):
        self.address, self.videos = address, videos
        self.waits: list[float] = []
        self.answers: list[float] = []
        self.others: list[float] = []
        self.wrong: list[str] = []
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (200, 30, 30)).save(file, "PNG")
        self.picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    def ask(self, client: httpx.Client, name: str, question: str) -> tuple[float, float]:
        """Seconds until its turn, and until the end."""
        body = {"video": self.videos[name], "question": question, "settings": {"max_new_tokens": 8}}
        began, event, turn = time.perf_counter(), None, None
        with client.stream("POST", "/api/questions", json=body) as reply:
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                    turn = turn or (time.perf_counter() - began if event == "started" else None)
        if event != "done":
            self.wrong.append(f"{question}: {event}")
        return turn or 0.0, time.perf_counter() - began

    def mixed(self, number: int) -> None:
        """One of the 60."""
        with httpx.Client(base_url=self.address, timeout=PATIENCE) as client:
            kind, began = number % 6, time.perf_counter()
            if kind < 3:
                self.answers.append(self.ask(client, "ab"[number % 2], f"What is it, {number}?")[1])
                return
            if kind == 3:
                part = {"type": "image_url", "image_url": {"url": self.picture}}
                content = [part, {"type": "text", "text": f"Which color, {number}?"}]
                body = {"model": "demo", "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
                reply = client.post("/v1/chat/completions", json=body)
            elif kind == 4:
                reply = client.post("/v1/files", files={"file": ("a.mp4", b"x" * 100_000)})
            else:
                reply = client.get(("/health", "/api/videos")[number % 2])
            if reply.status_code != 200:
                self.wrong.append(reply.text[:200])
            self.others.append(time.perf_counter() - began)


def opened(client: httpx.Client, video: str) -> tuple[float, list[float]]:
    """Seconds of opening a video, and of its chunks but the first."""
    began, times, done = time.perf_counter(), [], 0
    clip = client.post("/api/clips", json={"video": video}).json()
    while clip["state"] not in ("open", "failed"):
        time.sleep(0.005)
        clip = client.get(f"/api/clips/{clip['id']}").json()
        progress = clip["progress"]
        if progress and progress["done"] > done:
            done = progress["done"]
            times.append(time.perf_counter())
    if clip["state"] == "failed":
        sys.exit(clip["error"]["message"])
    seconds = time.perf_counter() - began
    client.delete(f"/api/clips/{clip['id']}")
    return seconds, [b - a for a, b in itertools.pairwise(times)]


def under_load(address: str, videos: dict, clients: int) -> dict:
    """What the requests took during one opening."""
    load = Load(address, videos)
    over = threading.Event()

    def alone() -> None:
        """A client that asks one question after the other while the video is being opened."""
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            while not over.is_set():
                load.waits.append(load.ask(client, "a", "Where is it?")[0])
                time.sleep(0.2)

    with httpx.Client(base_url=address, timeout=PATIENCE) as client, ThreadPoolExecutor(2) as pool:
        opening = pool.submit(opened, client, videos["long"])
        time.sleep(0.5)
        asking = pool.submit(alone)
        seconds, _ = opening.result()
        over.set()
        asking.result()
    with (
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
        ThreadPoolExecutor(1) as pool,
        ThreadPoolExecutor(clients) as crowd,
    ):
        opening = pool.submit(opened, client, videos["long"])
        time.sleep(0.5)
        list(crowd.map(load.mixed, range(REQUESTS)))
        crowded = opening.result()[0]
    return {
        "opening_alone_s": seconds,
        "opening_among_60_s": crowded,
        "wait_s": load.waits,
        "answer_s": load.answers,
        "other_s": load.others,
        "wrong": load.wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    import tempo_jax

    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        for name, seconds in (("a", 60), ("b", 60), ("long", int(60 * args.minutes))):
            write_video(folder / f"{name}.mp4", SyntheticVideo(seconds=seconds, fps=4, height=90, width=160))
        loaded = model.TempoModel(tempo_jax.load(REPO / "checkpoints" / "demo"), "demo")
        service = Service(loaded, Limits(waiting=64)).start()
        uploads = Uploads(service.limits)
        made = app.create_app(service, MediaFolders([folder]), uploads, page=None)
        with run.running(made.state.guarded, service) as address:
            result = measure(address, args.clients)
        uploads.close()
    if args.json:
        print(json.dumps(result))
    chunk = result["chunk_s"]
    print(
        f"a chunk of the long video takes {chunk:.2f} s, opening it by itself {result['by_itself_s']:.1f} s"
    )
    worst = 0.0
    for name in ("whole", "sliced"):
        result_of = result[name]
        alone, crowded = result_of["opening_alone_s"], result_of["opening_among_60_s"]
        print(f"{SAID[name]}: opening {alone:.1f} s, among {REQUESTS} requests {crowded:.1f} s")
        for metric in ("wait_s", "answer_s", "other_s"):
            values = result_of[metric]
            p50, p95 = percentile(values, 0.5), percentile(values, 0.95)
            chunks = f" = {p50 / chunk:.1f} / {p95 / chunk:.1f} chunks" if metric == "wait_s" else ""
            print(f"  {metric[:-2]:7} p50 {p50:6.2f} s  p95 {p95:6.2f} s  of {len(values)}{chunks}")
        for sentence in result_of["wrong"]:
            print("  WRONG:", sentence)
        worst = percentile(result_of["wait_s"], 0.95) / chunk
    print(f"p95 of the wait, before : after = {ratio(result):.1f} : 1")
    return int(worst >= 2 or bool(result["whole"]["wrong"] or result["sliced"]["wrong"]))


def ratio(result: dict) -> float:
    return percentile(result["whole"]["wait_s"], 0.95) / percentile(result["sliced"]["wait_s"], 0.95)


def measure(address: str, clients: int) -> dict:
    """Everything, with what compiles compiled before."""
    from tempo_jax.serve import opening

    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        listed = client.get("/api/videos").json()["videos"]
        videos = {video["name"].removesuffix(".mp4"): video["id"] for video in listed}
        opened(client, videos["long"])
        load = Load(address, videos)
        for number in range(4):
            load.mixed(number)
        for name in "ab":
            load.ask(client, name, "Where is it?")
        with ThreadPoolExecutor(clients) as crowd:  # answers decoded in a batch have shapes of their own
            list(crowd.map(load.mixed, range(24)))
        seconds, chunks = opened(client, videos["long"])
    result = {"by_itself_s": seconds, "chunk_s": statistics.mean(chunks)}
    sliced = opening.device.Turn
    for name, turn in (("whole", Whole), ("sliced", sliced)):
        opening.device.Turn = turn
        result[name] = under_load(address, videos, clients)
    opening.device.Turn = sliced
    return result


if __name__ == "__main__":
    sys.exit(main())
