"""Memory of a server that is asked about images of ever new sizes, each with programs of its own.

    python benchmarks/serve_sizes.py --count 500

`tempo serve` with the demo model; sizes are distinct and seeded. Reported of each tenth: resident memory, and
how many programs were compiled in it (those held at a time are bounded by runtime/buckets.py). Exit
status 1 when an image gets no answer or the second half of them adds more than FLAT_BYTES to the resident
memory.
"""

import argparse
import base64
import io
import re
import sys
import tempfile
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image
from serve_attacks import server

FLAT_BYTES = 64 << 20


def sizes(count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        found[tuple(int(side) for side in rng.integers(32, 480, 2))] = None
    return list(found)


def ask(client: httpx.Client, model: str, size: tuple[int, int]) -> int:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What color?"}]
    body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}
    return client.post("/v1/chat/completions", json=body).status_code


def compiled(client: httpx.Client) -> int:
    """Programs that the server has compiled."""
    return int(float(re.search(r"^tempo_compiled_programs (\S+)$", client.get("/metrics").text, re.M)[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    args = parser.parse_args()
    memory, bad = [], 0
    with (
        tempfile.TemporaryDirectory() as home,
        server(Path(home)) as target,
        httpx.Client(base_url=target.address, timeout=600) as client,
    ):
        model = client.get("/v1/models").json()["data"][0]["id"]
        began, before = time.perf_counter(), compiled(client)
        for number, size in enumerate(sizes(args.count), 1):
            bad += ask(client, model, size) != 200
            memory.append(target.process.memory_info().rss)
            if number % max(1, args.count // 10) == 0:
                seconds = time.perf_counter() - began
                programs = compiled(client)
                print(
                    f"{number} sizes: {memory[-1] >> 20} MiB, {seconds / number:.1f} s each, "
                    f"{programs - before} programs compiled since the last line",
                    flush=True,
                )
                before = programs
    half = len(memory) // 2
    grown = max(memory[half:]) - max(memory[:half])
    print(f"without an answer: {bad}; the second half adds {grown / 2**20:.0f} MiB to the most there was")
    return int(bad > 0 or grown > FLAT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
