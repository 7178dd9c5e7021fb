"""Training batches per second, what padding takes of them, and how long a step waits for data.

    python benchmarks/input_pipeline.py                                # minireel at 64 px, one shard
    python benchmarks/input_pipeline.py --config configs/demo_stage1.py # padding of a training config

Batches are made as fast as possible first; then a step of known length (it sleeps, as a host does while
its accelerator works) takes them, and the time it waits for the next one is the pipeline's. Padding is
counted in segments, compressor tokens and LLM tokens. A batch's arithmetic does not depend on how much
of it is padding, so a share of padding is a share of the step lost.
"""

import argparse
import contextlib
import functools
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")
REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

# Videos of 4 to 32 segments; room for four of the longest.
BATCH = {
    "shards": 1, "micro_batches": 1, "segments": 128, "compressor_length": 224, "sequences": 10,
    "sequence_length": 768,
}  # fmt: skip
SECONDS = (16, 32, 64, 128)
RENDERED = {"kind": "minireel", "count": 2000, "seconds": SECONDS, "size": 64}
MAKERS = {
    "rendered, 1 thread": {"threads": 1},
    "rendered, 4 threads": {"threads": 4},
    "rendered, worker": {"threads": 1, "workers": 1},
    "prepared, 1 thread": {"threads": 1, "prepared": True},
    "prepared, 4 threads": {"threads": 4, "prepared": True},
}
STEPS = (0.8, 1.25, 2.0)  # length of a step, in the seconds that making a batch takes
# Lengths that the data of Tempo-6B's stages are taken to have: pictures, or from so many frames to so
# many, every factor as likely.
ASSUMED = {
    "data/lcs": None,
    "data/pictures": None,
    "data/clips": (8, 8),
    "data/sft_pictures": None,
    "data/sft_videos": (16, 128),
    "data/long_videos": (64, 384),
}
KINDS = ("segments", "compressor_tokens", "llm_tokens")  # of padding
WINDOWS = (1, 8, 64)
STEPS = (0.8, 1.25, 2.0)  # length of a step, in batches' own time


def pipeline(tokenizer, sources=(RENDERED,), **changes):
    """A stream of batches for the demo model, closed on leaving."""
    from ml_collections import ConfigDict

    from tempo_jax.models.presets import PRESETS
    from tempo_jax.tasks import TrainLoader

    data = {"sources": sources, "packing_window": 64, "threads": 1, "workers": 0} | changes
    config = ConfigDict({"seed": 0, "task": "tempo", "batch": BATCH, "data": data})
    return contextlib.closing(TrainLoader(config, tokenizer, PRESETS["demo"], [0]))


def prepared(folder: Path) -> list[dict]:
    """The same kind of videos as JPEG: a data set for each length."""
    from tempo_jax.data.builders import Minireel
    from tempo_jax.data.preparation import Settings
    from tempo_jax.data.prepare import prepare
    from tempo_jax.models.presets import PRESETS

    settings = Settings(PRESETS["demo"].video)
    for seconds in SECONDS:
        build = functools.partial(
            Minireel, split="train", count=4, seconds=seconds, size=64, settings=settings
        )
        prepare(build, folder / str(seconds))
    return [{"kind": "prepared", "path": str(folder / str(seconds))} for seconds in SECONDS]


def speed(tokenizer, stored: list[dict], batches: int) -> float:
    """Prints a line per way to make batches; returns the seconds one takes, rendered in one thread."""
    columns = ("first, s", "batches/s", "samples/s", "frames/s", "CPU ms/sample")
    print(f"{'as fast as possible':24}" + "".join(f"{column:>14}" for column in columns))
    taken = {}
    for name, options in MAKERS.items():
        options = dict(options)
        sources = stored if options.pop("prepared", False) else (RENDERED,)
        with pipeline(tokenizer, sources, **options) as made:
            began = time.perf_counter()
            next(made)
            first = time.perf_counter() - began
            for _ in range(2):  # what waited, complete
                next(made)
            samples, began, cpu = made.stats["samples"], time.perf_counter(), time.process_time()
            for _ in range(batches):
                next(made)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            samples = made.stats["samples"] - samples
            frames = 8 * batches * BATCH["segments"] * (1 - made.stats["waste"]["segments"])
        taken[name] = seconds / batches
        rates = f"{first:14.1f}{batches / seconds:14.2f}{samples / seconds:14.1f}{frames / seconds:14.0f}"
        # Of this process: a worker's is its own.
        print(
            f"{name:24}{rates}" + ("" if "workers" in options else f"{1e3 * cpu / samples:14.1f}"), flush=True
        )
    return taken["rendered, 1 thread"]


def waits(tokenizer, batch_seconds: float, steps: int) -> None:
    print(f"\n{'a step as long as':24}{'waits for data':>14}")
    for factor in STEPS:
        with pipeline(tokenizer) as made:
            for _ in range(2):
                next(made)
            waited, began = 0.0, time.perf_counter()
            for _ in range(steps):
                time.sleep(factor * batch_seconds)
                asked = time.perf_counter()
                next(made)
                waited += time.perf_counter() - asked
            share = waited / (time.perf_counter() - began)
        print(f"{f'{factor:g} batches':24}{share:14.0%}", flush=True)


def padding(name: str, closing, batches: int) -> None:
    with closing as made:
        for _ in range(batches):
            next(made)
        waste = made.stats["waste"]
    print(f"{name:24}" + "".join(f"{waste.get(kind, 0):14.0%}" for kind in KINDS), flush=True)


def heading() -> None:
    print(f"\n{'padding, share of':24}{'segments':>14}{'compressor':>14}{'LLM':>14}")


def get_config(path: Path):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def of_config(path: Path, own_tokenizer: str, batches: int) -> None:
    """Padding of one data shard of a training config whose data are there."""
    from tempo_jax.models.presets import PRESETS
    from tempo_jax.prompts import Tokenizer
    from tempo_jax.tasks import TrainLoader
    from tempo_jax.training import initialization

    config = get_config(path)
    config.init.tokenizer = own_tokenizer or config.init.tokenizer
    model = PRESETS[config.model]
    model = {"compressor": lambda: model.compressor, "llm": lambda: model.llm}.get(
        config.task, lambda: model
    )()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer(initialization.tokenizer_folder(config, Path(folder)))
        heading()
        padding(path.stem, contextlib.closing(TrainLoader(config, tokenizer, model, [0])), batches)


def of_stages(batches: int) -> None:
    """Padding of the stages of Tempo-6B under ASSUMED lengths; their data need not be there."""
    from tempo_jax.data import batch_packing, demo_tokenizer
    from tempo_jax.data.batch_packing import BatchShape
    from tempo_jax.models.presets import TEMPO_6B
    from tempo_jax.prompts import Tokenizer
    from tempo_jax.tasks import TASKS

    with tempfile.TemporaryDirectory() as folder:
        demo_tokenizer.write(folder)
        tokenizer = Tokenizer(folder)
        for path in sorted((REPO / "configs").glob("tempo_6b_stage*.py")):
            config, rng, used = get_config(path), np.random.default_rng(0), Counter()
            batch = config.batch
            shape = BatchShape(
                batch.segments, batch.compressor_length, batch.sequences, batch.sequence_length
            )
            weights = np.array([source.get("weight", 1.0) for source in config.data.sources])
            window = []
            for _ in range(batches):
                while len(window) < config.data.packing_window:
                    source = config.data.sources[rng.choice(len(weights), p=weights / weights.sum())]
                    sample = assumed(ASSUMED[source.path], config.batch.frame_sizes[0], rng)
                    window.append(TASKS["tempo"].sample_size(sample, tokenizer, TEMPO_6B))
                chosen = set(batch_packing.select_samples(window, shape))
                used += batch_packing.occupancy([window[i] for i in chosen], shape)
                window = [need for i, need in enumerate(window) if i not in chosen]
            waste = batch_packing.padding_fraction(used)
            print(f"{path.stem:24}" + "".join(f"{waste[kind]:14.0%}" for kind in KINDS), flush=True)


def assumed(frames: tuple[int, int] | None, size: tuple[int, int], rng: np.random.Generator):
    """A sample of such length, its question 40 tokens long, its answer 10 to 100."""
    from tempo_jax.data.samples import Sample

    count = 1 if frames is None else round(math.exp(rng.uniform(*np.log(frames))))
    turns = [
        {"from": "human", "value": "<image>\n" + "?" * 40},
        {"from": "gpt", "value": "!" * int(rng.integers(10, 100))},
    ]
    # Zeros that are not read take no memory pages.
    return Sample(np.zeros((count, *size, 3), np.uint8), None if frames is None else 2.0, turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=10, help="per measurement (default 10)")
    parser.add_argument("--config", type=Path, help="a training config whose padding to count")
    parser.add_argument(
        "--tokenizer", default="", help="for it: a folder, minireel or demo (default: its own)"
    )
    args = parser.parse_args()
    if args.config:
        of_config(args.config, args.tokenizer, args.batches)
        return
    from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
    from tempo_jax.prompts import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        minireel_tokenizer.write(folder)
        tokenizer = Tokenizer(folder)
        seconds = speed(tokenizer, prepared(Path(folder)), args.batches)
        waits(tokenizer, seconds, args.batches // 2)
        heading()
        for window in WINDOWS:
            padding(f"window of {window}", pipeline(tokenizer, window=window), args.batches)
    of_stages(10 * args.batches)


if __name__ == "__main__":
    main()
