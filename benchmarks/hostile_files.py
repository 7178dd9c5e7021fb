"""Sends mutated videos and pictures to a server and watches that each gets an answer and memory stays flat.

    python benchmarks/hostile_files.py --count 1000

A stand-in for the model, the real decoder and HTTP API. Mutations are seeded: bytes flipped, zeroed,
doubled, cut off, boxes' sizes changed. Exit status 1 when a request gets no proper answer.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from tempo_jax.serve import run
from tempo_jax.serve.app import create_app
from tempo_jax.serve.files import Library, Uploads
from tempo_jax.video.synthetic import Clip, write_video
from tests.serving import service_of

SEEDS = ("a.mp4", "b.gif", "c.png")


def originals(folder: Path) -> dict[str, bytes]:
    """Valid files to mutate."""
    write_video(folder / "a.mp4", Clip(seconds=4, fps=4, height=48, width=64), faststart=True)
    frames = [Image.fromarray(np.full((40, 60, 3), 40 * k, np.uint8)) for k in range(5)]
    frames[0].save(folder / "b.gif", save_all=True, append_images=frames[1:], duration=200)
    frames[2].save(folder / "c.png")
    return {name: (folder / name).read_bytes() for name in SEEDS}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to a few changes of one kind."""
    changed = bytearray(data)
    kind = rng.integers(5)
    for _ in range(int(rng.integers(1, 9))):
        start = int(rng.integers(len(changed)))
        length = int(rng.integers(1, 64))
        if kind == 0:
            changed[start] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[start : start + length] = bytes(len(changed[start : start + length]))
        elif kind == 2:
            changed[start:start] = changed[start : start + length]
        elif kind == 3:  # sizes and counts are big-endian words
            changed[start : start + 4] = rng.bytes(4)
        else:
            return bytes(changed[: start + 1])
    return bytes(changed)


def send(address: str, name: str, data: bytes) -> int:
    """Uploads and asks; the status, -1 where the answer is not a proper one."""
    with httpx.Client(base_url=address, timeout=60) as client:
        upload = client.post("/v1/files", files={"file": (name, data)}).json()
        part = {"type": "video_url", "video_url": {"url": upload["id"]}}
        content = [part, {"type": "text", "text": "What?"}]
        body = {"model": "fake", "messages": [{"role": "user", "content": content}]}
        reply = client.post("/v1/chat/completions", json=body)
        client.delete(f"/v1/files/{upload['id']}")
    values = reply.json()
    if reply.status_code == 200:
        return 200 if values["choices"][0]["message"]["content"] else -1
    sentence = values["error"]["message"]
    return reply.status_code if reply.status_code == 400 and sentence.endswith(".") else -1


def attack(count: int, seed: int = 0) -> tuple[collections.Counter, list[int]]:
    """Statuses, and the server's resident bytes after every tenth of the requests."""
    statuses: collections.Counter = collections.Counter()
    memory, process = [], psutil.Process()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, service_of() as service:
        valid, uploads = originals(Path(folder)), Uploads(service.limits)
        app = create_app(service, Library([]), uploads)
        with run.running(app.state.guarded, service) as address:
            for number in range(count):
                name = SEEDS[number % len(SEEDS)]
                statuses[send(address, name, mutate(valid[name], rng))] += 1
                if (number + 1) % max(1, count // 10) == 0:
                    memory.append(process.memory_info().rss)
            assert httpx.get(address + "/health").status_code == 200
        uploads.close()
    return statuses, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    statuses, memory = attack(args.count, args.seed)
    print(f"{args.count} files in {time.perf_counter() - began:.0f} s; statuses {dict(statuses)}")
    print("resident MiB after each tenth:", *(f"{rss / 2**20:.0f}" for rss in memory))
    return int(statuses[-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
