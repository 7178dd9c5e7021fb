"""What converting a checkpoint costs against copying it, in one run.

    python benchmarks/convert.py [--folder DIR] [--layers 28] [--rounds 3]

Writes a Qwen3-0.6B-sized checkpoint of random bfloat16 weights, then, turn by turn: `cp` of the same bytes,
safetensors load and save, convert.from_hf, convert.to_hf, and the start-up of the converter (a tiny model).
Prints the smallest CPU and wall times of each and their ratios to cp's. Target: from_hf takes no more CPU
than 3 times cp's plus its start-up.
"""

import argparse
import dataclasses
import os
import shutil
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    parser.add_argument("--layers", type=int, default=QWEN3_06B.num_layers)
    parser.add_argument("--rounds", type=int, default=3)
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
        best = {name: (float("inf"), float("inf")) for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                times = run(command)
                best[name] = tuple(map(min, best[name], times))
                shutil.rmtree(out) if out.is_dir() else out.unlink()
        print(f"{disk(hf) / 1e9:.2f} GB, the best of {args.rounds} rounds")
        for name, (cpu, wall) in best.items():
            ratios = f"{cpu / best['cp'][0]:.1f} and {wall / best['cp'][1]:.1f} times cp's"
            print(f"{name}: {cpu:.2f} s of CPU, {wall:.2f} s ({ratios})")
        allowed = 3 * best["cp"][0] + best["start-up"][0]
        print(f"from_hf may take {allowed:.2f} s of CPU: {'yes' if best['from_hf'][0] <= allowed else 'no'}")
        return 0 if best["from_hf"][0] <= allowed else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
