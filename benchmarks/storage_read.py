"""Reading a prepared set from storage that is 40 ms away, by data.threads; one run.

    python benchmarks/storage_read.py --out=build/storage_read.json

An emulator behind a proxy that adds the latency. Batches of the pipeline are taken one after the other;
between two, the host sleeps for `step` seconds, as while a device computes. `wait`: the share of the time
that the next batch was waited for, after the first. A proxy in Python answers some hundred requests a
second at most, on this machine's cores: beyond that it is what is measured, so the records per second are a
lower bound.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tempo_jax.data.builders import Minireel
from tempo_jax.data.preparation import Settings
from tempo_jax.data.prepare import prepare
from tempo_jax.data.records import open_prepared
from tempo_jax.utils import paths
from tests import storage


def reading(folder: str, threads: int, step_seconds: float, batch: int, batches: int) -> dict:
    """As data.shards reads: grain's threads, records in a random order."""
    import grain

    data = grain.MapDataset.source(open_prepared(folder)).shuffle(seed=0).repeat()
    pooled = threads if threads > 1 else 0
    options = grain.ReadOptions(num_threads=pooled, prefetch_buffer_size=2 * pooled)
    records = iter(data.to_iter_dataset(options))
    for _ in range(batch):
        next(records)
    waited, began = 0.0, time.perf_counter()
    for _ in range(batches):
        time.sleep(step_seconds)
        asked = time.perf_counter()
        for _ in range(batch):
            next(records)
        waited += time.perf_counter() - asked
    seconds = time.perf_counter() - began
    return {
        "threads": threads,
        "wait": round(waited / seconds, 3),
        "records_per_second": round(batch * batches / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.04, help="seconds added to each request")
    parser.add_argument("--step", type=float, default=0.5, help="seconds between two batches")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {"latency_seconds": args.latency, "step_seconds": args.step, "batch": args.batch, "rows": []}
    with tempfile.TemporaryDirectory() as scratch, storage.served_by_proxy() as proxy:
        target = Path(scratch) / "set"
        settings = Settings(sizes=((64, 64),), max_frames=16)
        prepare(lambda: Minireel(split="train", count=120, seconds=8, size=32, settings=settings), target)
        there = paths.path("the target", f"gs://{storage.BUCKET}/set")
        paths.put(target, there, ("dataset_info.json",))
        proxy.latency_seconds = args.latency
        for threads in (1, 2, 4, 8, 16, 32):
            row = reading(str(there), threads, args.step, args.batch, args.batches)
            found["rows"].append(row)
            print(row, file=sys.stderr, flush=True)
        found["rows"].append({"on_a_disk": reading(str(target), 1, args.step, args.batch, args.batches)})
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
