"""Preparing in parts: pool against Ray, kills, two hosts; one run.

    python benchmarks/prepare_parts.py --clips=2000 --kills=10 --out=build/prepare_parts.json

Clips of a second are made first. The pool of two processes and Ray on two CPUs prepare the same set one
after the other, in turns, each set's bytes are compared; `ratio` is Ray's seconds, its start included, over
the pool's. Then everything is killed by SIGKILL at random moments and started again. A poisonous file is a
test (tests/test_prepare_parts.py).
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

REPO = Path(__file__).resolve().parent.parent
OPTIONS = ("--sizes=64x64", "--max-frames=8", "--min-frames=4")


def write_clips(folder: Path, count: int) -> Path:
    """So many short videos and their records."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        with av.open(folder / f"{number}.mp4", "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 64
            picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
            for shift in range(8):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, 8 * shift, 1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": f"Clip {number}."}]
        records.append({"id": f"{number}", "video": f"{number}.mp4", "conversations": turns})
    source = folder / "data.jsonl"
    source.write_text("\n".join(map(json.dumps, records)))
    return source


def command(source: Path, target: Path, *options: str) -> list[str]:
    names = [f"--source={source}", f"--target={target}", *OPTIONS, *options]
    return [sys.executable, "-m", "tempo_jax.data.prepare", *names]


def run(*arguments) -> float:
    """Seconds of a command that has to end well."""
    began = time.perf_counter()
    done = subprocess.run(command(*arguments), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def digest(folder: Path) -> str:
    """Of all names and bytes of a set."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def pool_and_ray(source: Path, folder: Path, rounds: int) -> dict:
    seconds: dict[str, list[float]] = {"pool": [], "ray": []}
    digests = set()
    for number in range(rounds):
        for name, option in (("pool", "--workers=2"), ("ray", "--ray=local")):
            target = folder / f"{name}{number}"
            seconds[name].append(run(source, target, option))
            digests.add(digest(target))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "seconds": seconds,
        "ratio": medians["ray"] / medians["pool"],
        "byte_identical": len(digests) == 1,
    }


def killed(source: Path, folder: Path, kills: int, whole: str) -> dict:
    """Killed at random moments, the last three times while or after the set is merged.

    What is finished is not made again: the number of finished shards never falls.
    """
    rng, target, rows = random.Random(1), folder / "killed", []
    total = len(json.loads((folder / "first" / "manifest.json").read_text())["shards"])
    parts = folder / ".killed.incomplete" / "parts"

    def finished() -> int:
        return total if target.exists() or merged() else len(list(parts.glob("*.json")))

    def merged() -> bool:
        return (parts.parent / "dataset_info.json").exists()

    for kill in range(kills):
        late = kill >= kills - 3
        before = finished()
        wanted = total if late else min(total - 1, before + rng.randrange(max(1, total // kills)))
        child = subprocess.Popen(command(source, target, "--workers=2"), cwd=REPO, start_new_session=True,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        while child.poll() is None and finished() < wanted:
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(rng.random() * (2.0 if late else 0.3))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        rows.append({"before": before, "after": finished(), "merged": merged(), "status": child.returncode})
    last = run(source, target, "--workers=2")
    return {
        "kills": rows,
        "shards": total,
        "none_made_again": all(row["after"] >= row["before"] for row in rows),
        "last_seconds": last,
        "byte_identical": digest(target) == whole,
    }


def hosts(source: Path, folder: Path, whole: str) -> dict:
    """Two at the same time, then the set is there."""
    target = folder / "hosts"
    both = [
        subprocess.Popen(command(source, target, "--hosts=2", f"--host={host}"), cwd=REPO,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for host in range(2)
    ]  # fmt: skip
    statuses = [child.wait() for child in both]
    return {"statuses": statuses, "byte_identical": digest(target) == whole}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = write_clips(folder / "clips", args.clips)
        run(source, folder / "first", "--workers=2")
        whole = digest(folder / "first")
        found = {"clips": args.clips}
        try:
            import ray  # noqa: F401
        except ImportError:
            found["ray"] = "not installed"
        else:
            found["ray"] = pool_and_ray(source, folder, args.rounds)
        found["killed"] = killed(source, folder, args.kills, whole)
        found["hosts"] = hosts(source, folder, whole)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
