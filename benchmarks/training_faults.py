"""Training under what befalls it: kills at any moment, and errors of one of two processes; one run.

    python benchmarks/training_faults.py --kills=20 --out=build/faults.json

Kills: the tiny stage 0 is killed by SIGKILL so many times, while it starts, steps or saves, and started again
by the same command; its rows are compared with those of an undisturbed run. Errors: two processes on
loopback train the tests' tiny model until one of them meets what tests/tiny_training.py does to it, or the
tiny stage 0 until a process that reads the data of one of them is killed; how long both took to end from
there, their status, and what process 0 (or the one that is left) said. Of what does not fit together at the
start, the seconds are from the command on.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import tiny_training

REPO = Path(__file__).resolve().parent.parent
ERRORS = ("mistake_on_1", "bug_on_1", "memory_on_1", "full_disk_on_1", "kill_1", "kill_0", "hang_on_1")
LONGEST_SECONDS = 300  # that two processes may take to end


def train(workdir: Path, steps: int) -> subprocess.Popen:
    """The tiny stage 0, as a user starts it."""
    command = [sys.executable, "train.py", "--config=configs/tiny_stage0.py", f"--workdir={workdir}"]
    options = [f"--config.steps={steps}", "--config.log_every=1", "--config.checkpoint_every=5"]
    return subprocess.Popen([*command, *options], cwd=REPO, stderr=subprocess.PIPE, text=True)


def rows(workdir: Path) -> list[tuple]:
    """What of each logged step has to be repeated bit for bit."""
    path = workdir / "log.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["loss"], row["gradient_norm"], row["skipped"]) for row in records]


def lines(workdir: Path) -> int:
    path = workdir / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kills(folder: Path, count: int, seed: int) -> dict:
    """So many kills; then the run ends by itself."""
    steps, rng, moments = 5 * count // 2 + 20, random.Random(seed), []
    assert train(folder / "whole", steps).wait() == 0
    workdir = folder / "killed"
    for number in range(count):
        run, began = train(workdir, steps), lines(workdir)
        if number % 4 == 3:  # while it starts
            time.sleep(rng.uniform(1, 12))
        else:
            wanted = rng.randint(1, 9)  # rows, of which a save begins at every fifth
            while (
                run.poll() is None and not 0 < lines(workdir) - began >= wanted and lines(workdir) < steps - 2
            ):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        moments.append(lines(workdir))
        print(f"kill {number + 1}: {moments[-1]} rows", flush=True)
    last = train(workdir, steps)
    stderr = last.communicate()[1]
    assert last.returncode == 0, stderr
    return {
        "kills": count,
        "rows_at_kills": moments,
        "rows": steps,
        "identical": rows(workdir) == rows(folder / "whole"),
    }


def errors(folder: Path) -> list[dict]:
    """Each error of one of two processes."""
    tiny_training.write_model(folder)
    results = []
    for hook in ERRORS:
        workdir = folder / hook
        limits = {"watchdog.say": 5.0, "watchdog.stop": 20.0} if hook == "hang_on_1" else {}
        pair = _pair(folder, [(workdir, hook, {"mesh.fsdp": 4} | limits)] * 2)
        _await_rows(workdir, pair)
        results.append(_ended(hook, pair, 1 if hook == "kill_0" else 0))
    results.append(_killed_reader(folder / "reader"))
    start = folder / "start"
    for error, sides in {
        "other_config_on_1": [(start, "", {}), (start, "", {"learning_rate.llm": 2e-3})],
        "unshared_workdir": [("run", "", {"mesh.fsdp": 4})] * 2,
        "absent_1": [(start, "", {})],
    }.items():
        places = [folder / f"host{rank}" for rank in range(2)] if error == "unshared_workdir" else [REPO] * 2
        for place in places:
            place.mkdir(exist_ok=True)
        results.append(_ended(error, _pair(folder, sides, places)))
    return results


def _pair(folder: Path, sides: list[tuple], places: list[Path] | None = None) -> list[subprocess.Popen]:
    """Processes of two devices each: of each the workdir, hook and changes, and where it runs."""
    address = _free_address()
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    environment |= {
        tiny_training.UNOPTIMISED: "1",
        "PYTHONPATH": str(REPO),
    }  # of compiling nothing is measured
    return [
        subprocess.Popen(
            tiny_training.command(folder / "model", *side, address, rank),
            cwd=(places or [REPO] * 2)[rank], env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank, side in enumerate(sides)
    ]  # fmt: skip


def _killed_reader(workdir: Path) -> dict:
    """The tiny stage 0 in two processes, of which the second loses one that reads its data."""
    options = [
        "--config.batch.shards=2", "--config.data.workers=1", "--config.steps=100000", "--config.log_every=1",
        "--config.watchdog.say=20", "--config.watchdog.stop=50",
        "--distributed", f"--coordinator={_free_address()}", "--processes=2",
    ]  # fmt: skip
    command = [sys.executable, "train.py", "--config=configs/tiny_stage0.py", f"--workdir={workdir}"]
    pair = [
        subprocess.Popen(
            [*command, *options, f"--process={rank}"], cwd=REPO, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    _await_rows(workdir, pair)
    readers = _spawned(pair[1].pid)
    assert readers or pair[1].poll() is not None, "no process that reads was found"
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
    return _ended("killed_reader_of_1", pair)


def _spawned(parent: int) -> list[int]:
    """The processes that multiprocessing started for it."""
    descendants = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                descendants.append(child)
            descendants += _spawned(child)
    return descendants


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _await_rows(workdir: Path, pair: list[subprocess.Popen]) -> None:
    until = time.monotonic() + LONGEST_SECONDS
    while lines(workdir) < 1 and all(child.poll() is None for child in pair) and time.monotonic() < until:
        time.sleep(0.01)


def _ended(error: str, pair: list[subprocess.Popen], speaker: int = 0) -> dict:
    """How the processes of an error ended, from now on; none is left behind."""
    began = time.perf_counter()
    try:
        stderr = [child.communicate(timeout=LONGEST_SECONDS)[1] for child in pair]
    finally:
        for child in pair:
            child.kill()
    sentences = re.findall(r"^train: (.*)", stderr[speaker], re.MULTILINE)
    results = {
        "error": error,
        "seconds": round(time.perf_counter() - began, 1),
        "status": [child.returncode for child in pair],
        "said": sentences[-1] if sentences else "",
    }
    print(json.dumps(results), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {"errors": errors(Path(folder)), **kills(Path(folder), args.kills, args.seed)}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "errors"}))


if __name__ == "__main__":
    main()
