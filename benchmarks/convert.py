"""Time of converting a checkpoint relative to copying it.

    python benchmarks/convert.py [--folder DIR] [--layers 28] [--rounds 5]

Writes a Qwen3-0.6B-sized checkpoint of random bfloat16 weights, then, turn by turn: `cp` of the same bytes,
safetensors load and save, convert.from_hf, convert.to_hf, and the start-up of the converter (a tiny model).
Prints the median CPU and wall times of each, their ranges, and the medians of their ratios to the cp of the
same round. Target: from_hf takes no more CPU than 3 times cp's plus its start-up, in the median round.
"""

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.convert_memory import disk, generate
from tempo_jax.models import presets as cfg

QWEN3_06B = dataclasses.replace(
    cfg.QWEN3_4B, hidden_size=1024, intermediate_size=3072, num_layers=28, num_heads=16
)
TINY = dataclasses.replace(
    QWEN3_06B, vocab_size=64, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=1, num_kv_heads=1
)
ALLOWED = 3  # times the CPU of cp, beyond the start-up
LOAD_AND_SAVE = """if True:
    import sys
    from safetensors.numpy import load_file, save_file
    import ml_dtypes
    save_file(load_file(sys.argv[1]), sys.argv[2])
"""


def run(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a command."""
    os.sync()  # what the last one left to write is not this one's
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"{command[:3]} failed with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, wall


def shown(seconds: list[float]) -> str:
    """The median and, in brackets, the least and most."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    parser.add_argument("--layers", type=int, default=QWEN3_06B.num_layers)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="convert_"))
    hf, tiny, out = folder / "hf", folder / "tiny", folder / "out"
    python = [sys.executable, "-m"]
    try:
        generate(hf, dataclasses.replace(QWEN3_06B, num_layers=args.layers))
        generate(tiny, TINY)
        from_hf = [*python, "convert.from_hf", "--model=qwen3"]
        (folder / "native").mkdir()
        run([*from_hf, f"--source={hf}", f"--target={folder / 'native'}"])
        commands = {
            "cp": ["cp", "-r", str(hf), str(out)],
            "safetensors load+save": [
                sys.executable, "-c", LOAD_AND_SAVE, str(hf / "model.safetensors"), str(out)
            ],
            "from_hf": [*from_hf, f"--source={hf}", f"--target={out}"],
            "to_hf": [*python, "convert.to_hf", f"--source={folder / 'native'}", f"--target={out}"],
            "start-up": [*from_hf, f"--source={tiny}", f"--target={out}"],
        }  # fmt: skip
        rounds = []
        for _ in range(args.rounds):
            rounds.append({})
            for name, command in commands.items():
                rounds[-1][name] = run(command)
                shutil.rmtree(out) if out.is_dir() else out.unlink()
        print(f"{disk(hf) / 1e9:.2f} GB, the medians (and ranges) of {args.rounds} rounds")
        for name in commands:
            cpu, wall = ([times[name][i] for times in rounds] for i in (0, 1))
            ratios = [statistics.median(t[name][i] / t["cp"][i] for t in rounds) for i in (0, 1)]
            print(
                f"{name}: {shown(cpu)} of CPU, {shown(wall)}; {ratios[0]:.1f} and {ratios[1]:.1f} times cp's"
            )
        beyond = [(t["from_hf"][0] - t["start-up"][0]) / t["cp"][0] for t in rounds]
        print(
            f"from_hf beyond its start-up: {statistics.median(beyond):.2f} times cp's CPU "
            f"({min(beyond):.2f} to {max(beyond):.2f}), where {ALLOWED} are allowed"
        )
        return 0 if statistics.median(beyond) <= ALLOWED else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
