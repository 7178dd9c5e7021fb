"""Commands on storage that fails: an emulator behind a proxy with faults; one run.

    python benchmarks/storage_faults.py --out=build/storage_faults.json
    python benchmarks/storage_faults.py --kills=10 --out=build/storage_kills.json

Each fault lasts for a whole run of a command on tiny models, whose results are compared with those of the
same command on a disk: training (six steps, two checkpoints, export), evaluation (a synthetic benchmark),
conversion. Reported: how it ended, in how many seconds, and what was said last. `start`: the fault is there
before the run begins; otherwise it begins with the first write of results.

--kills: instead, a training is killed (SIGKILL) so often, every other time while a checkpoint is being
written and otherwise at a random moment, and started again each time.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from tests import benchmark_copies, storage, tiny_checkpoints, tiny_training  # noqa: E402
from tests.storage_proxy import Fault, Proxy  # noqa: E402

BUCKET = f"gs://{storage.BUCKET}"
DEMO = REPO / "checkpoints" / "demo"
LIMIT_SECONDS = 240
# name -> (kind, share of the requests, seconds of a stall, latency of all, from the start)
FAULTS = {
    "none": ("", 0, 0, 0, True),
    "503 for a fifth": ("503", 0.2, 0, 0, True),
    "429 for a fifth": ("429", 0.2, 0, 0, True),
    "resets of a tenth": ("reset", 0.1, 0, 0, True),
    "stalls of 5 s of a twentieth": ("stall", 0.05, 5, 0, True),
    "slow: 40 ms each": ("", 0, 0, 0.04, True),
    "403 from the start": ("403", 1, 0, 0, True),
    "403 from the first results": ("403", 1, 0, 0, False),
    "404 from the first results": ("404", 1, 0, 0, False),
    "503 for ever from the first results": ("503", 1, 0, 0, False),
}


class Command(NamedTuple):
    """A command on the bucket.

    Attributes:
      words: Its command line, for a folder that it writes.
      results: Plain values or arrays by name, of such a folder.
      first: Part of the names of the first results that it writes.
      statuses: Its exit statuses when all is well.
    """

    words: Callable[[str], list[str]]
    results: Callable[[str], dict[str, Any]]
    first: str
    statuses: tuple[int, ...] = (0,)


def commands(model: Path, copy: Path, hf: str) -> dict[str, Command]:
    evaluation = [
        "eval.py", "--config=configs/eval_lvbench.py", f"--config.data.path={copy}", "--config.budget=64",
        "--config.max_frames=16", "--config.allow_missing=True", "--config.decode_workers=0",
        f"--config.checkpoint={BUCKET}/demo",
    ]  # fmt: skip
    return {
        "train": Command(
            lambda folder: tiny_training.command(model, folder, "", {}),
            lambda folder: parameters(f"{folder}/model"),
            "checkpoints/3",
        ),
        "eval": Command(
            lambda folder: [sys.executable, *evaluation, f"--workdir={folder}"], report, "rows/", (3,)
        ),
        "convert": Command(
            lambda folder: [
                sys.executable, "-m", "convert.from_hf", "--model=qwen3", f"--source={hf}",
                f"--target={folder}", "--overwrite",
            ],
            parameters,
            "params/",
        ),
    }  # fmt: skip


def one(fault: str, name: str, command: Command, proxy: Proxy, expected: dict) -> dict:
    """A command under a fault, in a folder of its own."""
    kind, share, seconds, latency, start = FAULTS[fault]
    folder = f"{BUCKET}/{name}/{fault.replace(' ', '-').replace(':', '')}"
    seen = []

    def wanted(method: str, path: str) -> bool:
        if start or seen:
            return True
        if method in ("POST", "PUT", "PATCH") and command.first in path.replace("%2F", "/"):
            seen.append(path)
        return bool(seen)

    proxy.fault, proxy.latency_seconds, proxy.requests = Fault(kind, share, seconds, wanted), latency, 0
    began = time.perf_counter()
    try:
        run = subprocess.run(
            command.words(folder), cwd=REPO, capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
        status, said = run.returncode, run.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        status, said = "still running", []
    took = time.perf_counter() - began
    met, requests = proxy.fault.met, proxy.requests
    proxy.fault, proxy.latency_seconds = Fault(), 0
    well = status in command.statuses
    result = {
        "status": status, "seconds": round(took, 1), "requests": requests, "faults": met,
        "identical": same(command.results(folder), expected) if well else None,
        "said_last": [] if well else [line[:300] for line in said[-3:]],
    }  # fmt: skip
    if not well:  # what is there afterwards is nothing, or what loads
        again = subprocess.run(command.words(folder), cwd=REPO, capture_output=True, text=True)
        result["identical_when_resumed"] = again.returncode in command.statuses and same(
            command.results(folder), expected
        )
    return result


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


def kills(folder: Path, count: int, proxy: Proxy) -> dict:
    """Each start resumes from the last whole step, and the result is the same."""
    from tempo_jax.training import checkpoints
    from tempo_jax.utils import paths

    changes = {"steps": 4 * count + 8, "checkpoint_every": 2}
    command = tiny_training.command(folder / "model", folder / "whole", "", changes)
    assert subprocess.run(command, cwd=REPO, capture_output=True).returncode == 0
    workdir, rng, rows = f"{BUCKET}/kills", random.Random(2), []
    last, place = None, paths.path("the workdir", workdir)

    def begun() -> set[str]:
        """Steps of which something is there, but not the mark of a whole one."""
        names = [name.split("/") for name in paths.files(place / "checkpoints")]
        return {name[0] for name in names} - {f"{step}" for step in checkpoints.steps(place)}

    for number in range(count + 1):
        command = tiny_training.command(folder / "model", workdir, "slow" if number < count else "", changes)
        proxy.latency_seconds = 0.04 if number < count else 0.0  # saves take some time, as they do elsewhere
        run = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
        said = []
        for line in run.stderr:  # until it steps
            said.append(line)
            if " loss " in line and number < count:
                until = time.monotonic() + 60
                while number % 2 and not begun() and time.monotonic() < until:
                    time.sleep(0.02)
                time.sleep(rng.uniform(0, 0.3 if number % 2 else 4))
                run.kill()
                break
        run.stderr.read()
        run.wait()
        start = next((line for line in said if " parameters" in line), "")
        step = re.search(r" step (\d+)", start)  # none: a new run
        resumed = bool(start) and (int(step[1]) if step else None) == last
        in_save = sorted(begun())
        whole = checkpoints.steps(place)
        last = whole[0] if whole else None
        row = {"resumed_as_expected": resumed, "status": run.returncode, "last_whole_step": last}
        rows.append(row | {"in_save_of": in_save})
        print(rows[-1], file=sys.stderr, flush=True)
    expected, found = parameters(str(folder / "whole" / "model")), parameters(f"{workdir}/model")
    return {"starts": rows, "identical": same(found, expected)}


def parameters(folder: str) -> dict[str, np.ndarray]:
    from tempo_jax import checkpoint
    from tempo_jax.utils.tree import flatten

    return {name: np.asarray(x) for name, x in flatten(checkpoint.load_params(folder)).items()}


def report(folder: str) -> dict[str, Any]:
    from tempo_jax.utils import paths

    values = json.loads((paths.path("the workdir", folder) / "report.json").read_text())["results"]
    return {name: value for name, value in values.items() if name != "code"}  # the commit


def faults(folder: Path, proxy: Proxy, only: str, names: list[str]) -> dict[str, dict]:
    from tempo_jax.utils import paths

    benchmark_copies.WRITERS["lvbench"](folder / "copy")
    hf = tiny_checkpoints.write_llm(folder / "hf", vocab=64)
    for local, there in ((DEMO, "demo"), (hf, "hf")):
        paths.put(local, paths.path("the source", f"{BUCKET}/{there}"), ("model.json", "config.json"))
    found: dict[str, dict] = {}
    for name, command in commands(folder / "model", folder / "copy", f"{BUCKET}/hf").items():
        if name not in names:
            continue
        local = str(folder / "local" / name)
        done = subprocess.run(command.words(local), cwd=REPO, capture_output=True, text=True)
        assert done.returncode in command.statuses, done.stderr
        expected = command.results(local)
        for fault in (fault for fault in FAULTS if only in fault):
            row = found.setdefault(name, {})[fault] = one(fault, name, command, proxy, expected)
            print(f"{name}, {fault}: {row}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a part of a fault's name")
    parser.add_argument("--commands", default="train,eval,convert", help="which of them")
    parser.add_argument("--kills", type=int, default=0, help="instead of faults: so many")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        tiny_training.unoptimised(),
        storage.served_by_proxy() as proxy,
    ):
        folder = Path(scratch)
        tiny_training.write_model(folder)
        if args.kills:
            found = {"kills": kills(folder, args.kills, proxy)}
        else:
            found = faults(folder, proxy, args.only, args.commands.split(","))
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
