"""Time from the command to the first step, with compiled programs kept and without; one run.

    python benchmarks/first_step.py --out=build/first_step.json

The tiny stage 0 (or --config) is started in turn with an empty cache folder, with what that start left there,
and with --no-cache, --repeats times; seconds until its first row is in the log.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def first_row(config: str, cache: Path, folder: Path, *more: str) -> float:
    """Seconds until a run has logged its first step."""
    workdir = folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
    command = [
        sys.executable,
        "train.py",
        f"--config={config}",
        f"--workdir={workdir}",
        "--config.log_every=1",
    ]
    began = time.perf_counter()
    said = folder / "stderr"
    with (
        said.open("w") as errors,
        subprocess.Popen([*command, *more], cwd=REPO, env=environment, stderr=errors) as run,
    ):
        while run.poll() is None and not (workdir / "log.jsonl").exists():
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        if run.poll() is not None:
            sys.exit(f"the run ended before its first step: {said.read_text()[-2000:]}")
        run.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/tiny_stage0.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("more", nargs="*", help="further arguments of train.py, after --")
    args = parser.parse_args()
    results: dict[str, list[float]] = {"empty": [], "warm": [], "no cache": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(args.repeats):
            cache = folder / f"cache{number}"
            results["empty"].append(first_row(args.config, cache, folder, *args.more))
            results["warm"].append(first_row(args.config, cache, folder, *args.more))
            results["no cache"].append(first_row(args.config, cache, folder, "--no-cache", *args.more))
            print({name: round(seconds[-1], 1) for name, seconds in results.items()}, flush=True)
    medians = {name: statistics.median(seconds) for name, seconds in results.items()}
    ratio = medians["warm"] / medians["no cache"]
    args.out.write_text(
        json.dumps({"seconds": results, "medians": medians, "warm / no cache": ratio}, indent=1) + "\n"
    )
    print(f"warm {medians['warm']:.1f} s, without {medians['no cache']:.1f} s: {ratio:.2f}")


if __name__ == "__main__":
    main()
