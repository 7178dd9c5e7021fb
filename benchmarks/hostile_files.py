"""Sends mutated videos and pictures to a server and watches that each gets an answer and memory stays flat.

    python benchmarks/hostile_files.py --count 1000

The server is `tempo serve` with the demo model. The damages are those of benchmarks/damaged_files.py, seeded.
All are sent twice: a file of a new size compiles programs, which stay, so that only the second round tells
whether memory grows. Exit status 1 when a request gets no proper answer, the server does not survive or its
memory grows by more than FLAT_BYTES.
"""

import argparse
import collections
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import httpx2 as httpx
import numpy as np
import psutil
from PIL import Image

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks.damaged_files import KINDS, PLACES, damage  # noqa: E402
from tempo_jax.video.synthetic import SyntheticVideo, write_video  # noqa: E402

SEEDS = ("a.mp4", "b.gif", "c.png")
FLAT_BYTES = 64 << 20  # what the second round may add


def originals(folder: Path) -> dict[str, bytes]:
    """Valid files to mutate."""
    write_video(folder / "a.mp4", SyntheticVideo(seconds=4, fps=4, height=48, width=64), faststart=True)
    frames = [Image.fromarray(np.full((40, 60, 3), 40 * k, np.uint8)) for k in range(5)]
    frames[0].save(folder / "b.gif", save_all=True, append_images=frames[1:], duration=200)
    frames[2].save(folder / "c.png")
    return {name: (folder / name).read_bytes() for name in SEEDS}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One damage of some kind somewhere."""
    kind, place = (names[int(rng.integers(len(names)))] for names in (KINDS, PLACES))
    return damage(data, rng, kind, place)


def send(address: str, model: str, name: str, data: bytes) -> int:
    """Uploads and asks; the status, -1 where the answer is not a proper one."""
    with httpx.Client(base_url=address, timeout=120) as client:
        upload = client.post("/v1/files", files={"file": (name, data)}).json()
        part = {"type": "video_url", "video_url": {"url": upload["id"]}}
        content = [part, {"type": "text", "text": "What?"}]
        body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
        reply = client.post("/v1/chat/completions", json=body)
        client.delete(f"/v1/files/{upload['id']}")
    values = reply.json()
    if reply.status_code == 200:
        return 200 if isinstance(values["choices"][0]["message"]["content"], str) else -1
    sentence = values["error"]["message"]
    return reply.status_code if reply.status_code == 400 and sentence.endswith(".") else -1


def attack(
    address: str, count: int, seed: int = 0, every: int = 100, watch: Callable[[], None] = lambda: None
) -> collections.Counter:
    """Statuses of `count` mutated files; `watch` is called after each `every`."""
    statuses: collections.Counter = collections.Counter()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        valid = originals(Path(folder))
    model = httpx.get(address + "/v1/models").json()["data"][0]["id"]
    for number in range(count):
        name = SEEDS[number % len(SEEDS)]
        statuses[send(address, model, name, mutate(valid[name], rng))] += 1
        if (number + 1) % every == 0:
            watch()
    return statuses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with server() as (process, address):
        info, rounds, bad = psutil.Process(process.pid).memory_info, [], 0
        for number in (1, 2):
            began, memory = time.perf_counter(), []
            every = max(1, args.count // 10)
            statuses = attack(address, args.count, args.seed, every, lambda: memory.append(info().rss))  # noqa: B023
            seconds = time.perf_counter() - began
            print(f"round {number}: {args.count} files in {seconds:.0f} s; statuses {dict(statuses)}")
            print("resident MiB after each tenth:", *(f"{rss / 2**20:.0f}" for rss in memory), flush=True)
            rounds.append(memory)
            bad += statuses[-1]
        alive = httpx.get(address + "/health").status_code == 200
        process.terminate()
        clean = process.wait(60) == 0
    first, second = rounds
    flat = max(second) - first[-1] < FLAT_BYTES
    print(f"alive at the end: {alive}; clean end: {clean}; memory flat: {flat}")
    return int(bad > 0 or not (alive and clean and flat))


@contextlib.contextmanager
def server() -> Iterator[tuple[subprocess.Popen, str]]:
    """`tempo serve` with the demo model, and its address; killed where it does not end by itself."""
    command = [sys.executable, "-m", "tempo_jax.cli", "serve", "--no-page", "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:  # a pipe that is not read would stop it
        process = subprocess.Popen(command, stderr=log)
        try:
            while not (match := re.search(r"(http://\S+)/$", _read(log), re.MULTILINE)):
                if process.poll() is not None:
                    sys.exit(_read(log))
                time.sleep(0.1)
            yield process, match[1]
        finally:
            process.kill()
            process.wait()


def _read(log: TextIO) -> str:
    return os.pread(log.fileno(), 1 << 20, 0).decode()  # the server's writing position is its own


if __name__ == "__main__":
    sys.exit(main())
