"""Peak host memory, disk use and speed of converting a Qwen3-4B-sized checkpoint.

    python benchmarks/convert_memory.py [--folder DIR] [--layers 36] [--keep]

Writes about 8 GB of random bfloat16 weights, converts them to the native layout and back in processes of
their own, verifies, and prints one line per step. Target: peak below 1.5 x the largest stacked array + 1 GiB.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from convert import hf_export, mapping
from convert.safetensors_io import Writer
from tempo_jax.models import config as cfg
from tempo_jax.models import presets

GIB = 2**30


def generate(folder: Path, config: cfg.DecoderConfig) -> None:
    """Random normal weights of a realistic scale, in 5 GB shards."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    # Enough entropy to compress like real weights, drawn once: drawing 4e9 values takes minutes.
    pool = (rng.standard_normal(1 << 26, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    shapes = {name: t.hf_shape for t in mapping.tensors("qwen3", config) for name in t.hf}
    with Writer(folder, [(n, "BF16", s) for n, s in shapes.items()], 5_000_000_000) as writer:
        for name, shape in shapes.items():
            size = math.prod(shape)
            start = int(rng.integers(len(pool)))
            writer.write(name, np.resize(np.roll(pool[: min(size, len(pool))], start), size).reshape(shape))
    (folder / "config.json").write_text(json.dumps(hf_export.export("qwen3", config, {}, "bfloat16")))


def disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def run(step: str, arguments: list[str], nbytes: int) -> float:
    """Runs `python -m ...`; prints and returns its peak resident memory in bytes."""
    began = time.monotonic()
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-m", *arguments])
    _, status, usage = os.wait4(pid, 0)
    seconds, peak = time.monotonic() - began, usage.ru_maxrss * 1024
    cpu = usage.ru_utime + usage.ru_stime
    speed = f"{seconds:.0f} s ({cpu:.0f} s of CPU), {nbytes / 1e6 / seconds:.0f} MB/s"
    print(f"{step}: {speed}, peak {peak / GIB:.2f} GiB", flush=True)
    if status:
        sys.exit(f"{step} failed with status {os.waitstatus_to_exitcode(status)}")
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    parser.add_argument("--layers", type=int, default=presets.QWEN3_4B.num_layers)
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    args = parser.parse_args()
    config = dataclasses.replace(presets.QWEN3_4B, num_layers=args.layers)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="convert_memory_"))
    hf, native, back = folder / "hf", folder / "native", folder / "back"
    try:
        generate(hf, config)
        size = disk(hf)
        largest = 2 * max(math.prod(s) for s in mapping.native_shapes("qwen3", config).values())
        limit = 1.5 * largest + GIB
        print(f"checkpoint {size / 1e9:.2f} GB, largest stack {largest / 1e9:.2f} GB")
        common = ["--model=qwen3", f"--source={hf}", f"--target={native}"]
        peaks = [run("from_hf", ["convert.from_hf", *common], size)]
        print(f"native checkpoint on disk: {disk(native) / 1e9:.2f} GB")
        peaks.append(run("verify", ["convert.verify", f"--native={native}", f"--hf={hf}"], size))
        peaks.append(run("to_hf", ["convert.to_hf", f"--source={native}", f"--target={back}"], size))
        print(f"largest peak {max(peaks) / GIB:.2f} GiB of {limit / GIB:.2f} GiB allowed")
        return 0 if max(peaks) < limit else 1
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
