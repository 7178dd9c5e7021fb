"""Peak memory and seconds of `ask` on 600 and 4101 seconds of H.264, 1024 frames each, demo model.

    python benchmarks/hour_long.py [--checkpoint checkpoints/demo]

One run, each video in a process of its own. Memory must not grow with the length of the file: the
target is within 200 MiB of each other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = (600, 4101)
CHILD = """
import json, sys, time, tempo_jax
tempo = tempo_jax.load(sys.argv[1])
answer = tempo.ask(sys.argv[2], "What color is the ball?", budget=4096, max_new_tokens=16)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mib = int(status["VmHWM"].split()[0]) // 1024
print(json.dumps({"usage": answer.usage, "timings": answer.timings, "mib": mib}))
"""


def make(folder: Path, seconds: int) -> Path:
    path = folder / f"{seconds}.mp4"
    arguments = ["--seconds", str(seconds), "--fps", "5", "--width", "320", "--height", "180"]
    command = [sys.executable, "-m", "tempo_jax.video.synthetic", str(path), *arguments]
    subprocess.run(command, check=True, cwd=ROOT)
    return path


def measure(checkpoint: Path, video: Path) -> dict:
    command = [sys.executable, "-c", CHILD, str(checkpoint.resolve()), str(video)]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "demo")
    args = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in SECONDS:
            result = measure(args.checkpoint, make(Path(folder), seconds))
            peaks.append(result["mib"])
            times = ", ".join(f"{name} {value:.1f} s" for name, value in result["timings"].items())
            frames, segments = result["usage"]["frames"], result["usage"]["segments"]
            print(
                f"{seconds} s: peak {peaks[-1]} MiB, {frames} frames, {segments} segments; {times}",
                flush=True,
            )
    print(f"difference {peaks[1] - peaks[0]:+d} MiB (target: within 200)")


if __name__ == "__main__":
    main()
