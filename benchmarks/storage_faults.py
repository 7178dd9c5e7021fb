"""Training into storage that fails: an emulator behind a proxy with faults; one run.

    python benchmarks/storage_faults.py --out=build/storage_faults.json

Each fault lasts for a whole run of the tests' tiny model (six steps, two checkpoints, export): how it
ended, in how many seconds, what was said last, and whether the model has the bits of a run on a disk.
`start`: the fault is there before the run begins; otherwise it begins with the first checkpoint.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests import storage, tiny_training
from tests.storage_proxy import Fault

REPO = Path(__file__).resolve().parent.parent
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
    "403 from the first checkpoint": ("403", 1, 0, 0, False),
    "404 from the first checkpoint": ("404", 1, 0, 0, False),
    "503 for ever from the first checkpoint": ("503", 1, 0, 0, False),
}


def one(name: str, model: Path, proxy, expected: dict) -> dict:
    kind, share, seconds, latency, start = FAULTS[name]
    workdir = f"gs://{storage.BUCKET}/{name.replace(' ', '-').replace(':', '')}"
    seen = []

    def wanted(method: str, path: str) -> bool:
        if start or seen:
            return True
        if "checkpoints%2F3" in path or "checkpoints/3" in path:
            seen.append(path)
        return bool(seen)

    proxy.fault, proxy.latency_seconds, proxy.requests = Fault(kind, share, seconds, wanted), latency, 0
    command = tiny_training.command(model, workdir, "", {})
    began = time.perf_counter()
    try:
        run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        status, said = run.returncode, run.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        status, said = "still running", []
    took = time.perf_counter() - began
    met, requests = proxy.fault.met, proxy.requests
    proxy.fault, proxy.latency_seconds = Fault(), 0
    same = None
    if status == 0:
        found = parameters(f"{workdir}/model")
        same = found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in found)
    return {
        "status": status, "seconds": round(took, 1), "requests": requests, "faults": met,
        "bit_identical": same,
        "said_last": said[-1][:300] if said and status != 0 else "",
    }  # fmt: skip


def kills(folder: Path, count: int) -> dict:
    """SIGKILL at random moments: each start resumes from the last whole step, and the result is the same."""
    from tempo_jax.training import checkpoints
    from tempo_jax.utils import paths

    changes = {"steps": 4 * count + 8, "checkpoint_every": 2}
    command = tiny_training.command(folder / "model", folder / "whole", "", changes)
    assert subprocess.run(command, cwd=REPO, capture_output=True).returncode == 0
    workdir, rng, rows = f"gs://{storage.BUCKET}/kills", random.Random(2), []
    last = None
    for number in range(count + 1):
        command = tiny_training.command(folder / "model", workdir, "slow" if number < count else "", changes)
        run = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
        said = []
        for line in run.stderr:  # until it steps
            said.append(line)
            if " loss " in line and number < count:
                time.sleep(rng.uniform(0, 4))
                run.kill()
                break
        run.stderr.read()
        run.wait()
        start = next((line for line in said if " parameters" in line), "")
        step = re.search(r" step (\d+)", start)  # none: a new run
        resumed = bool(start) and (int(step[1]) if step else None) == last
        rows.append({"resumed_as_expected": resumed, "status": run.returncode})
        whole = checkpoints.steps(paths.path("the workdir", workdir))
        last = whole[0] if whole else None
        rows[-1]["last_whole_step"] = last
    expected, found = parameters(folder / "whole" / "model"), parameters(f"{workdir}/model")
    same = all(np.array_equal(found[name], expected[name]) for name in expected)
    return {"starts": rows, "bit_identical": same}


def parameters(folder) -> dict:
    from tempo_jax import checkpoint
    from tempo_jax.utils.tree import flatten

    return {name: np.asarray(x) for name, x in flatten(checkpoint.load_params(folder)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a part of a fault's name")
    parser.add_argument("--kills", type=int, default=0, help="instead of faults: so many, at random moments")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch, tiny_training.unoptimised():
        folder = Path(scratch)
        tiny_training.write_model(folder)
        local = tiny_training.command(folder / "model", folder / "local", "", {})
        assert subprocess.run(local, cwd=REPO, capture_output=True).returncode == 0
        expected = parameters(folder / "local" / "model")
        with storage.served_by_proxy() as proxy:
            if args.kills:
                found["kills"] = kills(folder, args.kills)
            for name in FAULTS:
                if args.only in name and not args.kills:
                    found[name] = one(name, folder / "model", proxy, expected)
                    print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
