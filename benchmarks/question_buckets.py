"""CPU time of a further question with finer and coarser buckets; one process, interleaved.

    python benchmarks/question_buckets.py [--checkpoint DIR] [--frames 32] [--rounds 3]

Opens a random video with a prefix cache, and asks one question after the other (no memory tokens are reused)
with the buckets of `runtime/buckets.py` and with those before: prefill in 256, 512, 1024, 1536, ..., and
compressor rows in multiples of 128. What is compiled is asked once before. Medians of CPU seconds.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import tempo_jax
from tempo_jax.runtime import buckets

ROOT = Path(__file__).resolve().parent.parent
BEFORE = {
    "PREFILL_BUCKETS": (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 16384),
    "QUESTION_ALIGNMENT": {},
}
NOW = {name: getattr(buckets, name) for name in BEFORE}


def ask(clip, number: int, budget: int, values: dict) -> tuple[float, dict]:
    """CPU seconds and usage of a question with these buckets."""
    for name, value in values.items():
        setattr(buckets, name, value)
    began = time.process_time()
    answer = clip.ask(f"What happens to the red ball, number {number}?", budget=budget, max_new_tokens=4)
    return time.process_time() - began, answer.usage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "demo")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    tempo = tempo_jax.load(args.checkpoint)
    frames = np.random.default_rng(0).integers(0, 255, (args.frames, 360, 640, 3), np.uint8)
    clip = tempo.open(frames, prefix_cache=True)
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    for number in range(args.rounds + 1):
        for name, values in (("before", BEFORE), ("now", NOW)):
            taken, usage = ask(clip, 10 + number, args.budget, values)
            if number:
                seconds[name].append(taken)
            bucket = buckets.pick_bucket(usage["prompt_tokens"], buckets.PREFILL_BUCKETS)
            print(f"{name}: {taken:.2f} s, {usage['prompt_tokens']} prompt tokens in {bucket}", flush=True)
            clip._memory_cache.clear()  # the next one computes the same question's memory tokens again
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"before {medians['before']:.2f} s, now {medians['now']:.2f} s: "
          f"{medians['now'] / medians['before']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
