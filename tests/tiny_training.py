"""A model small enough to train in tests, batches for it, and a process that trains it and may be killed.

python -m tests.tiny_training MODEL WORKDIR HOOK '{"mesh.data": 2, …}' [ADDRESS RANK]
"""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from tempo_jax.data import demo_tokenizer

# XLA optimises for longer than these programs ever run. The same in all processes, for equal bits.
UNOPTIMISED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
STEPS, SHARDS = 6, 8
RATES = {"memory": 1e-3, "projector": 1e-3, "llm": 1e-3}


@contextlib.contextmanager
def unoptimised():
    """Programs compiled meanwhile, by this process or ones that it starts."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    os.environ[UNOPTIMISED] = "1"
    try:
        yield
    finally:
        del os.environ[UNOPTIMISED]
        jax.config.update("jax_disable_most_optimizations", False)


def write_tokenizer(folder: Path) -> int:
    """The demo tokenizer with its ids packed together; returns how many there are."""
    demo_tokenizer.write(folder)
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    old = values["model"]["vocab"]
    new = {token: i for i, token in enumerate(sorted(old, key=old.get))}
    values["model"]["vocab"] = new
    for token in values["added_tokens"]:
        token["id"] = new[token["content"]]
    path.write_text(json.dumps(values), encoding="utf-8")
    return len(new)


def architecture(vocabulary: int):
    from tempo_jax.models.presets import TINY

    small = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    decoder = {**small, "num_kv_heads": 2, "num_layers": 2, "vocab_size": vocabulary}
    vision = dataclasses.replace(
        TINY.compressor.vision, **small, depth=2, deepstack_layers=(0,), out_hidden_size=32
    )
    compressor = dataclasses.replace(
        TINY.compressor, vision=vision, text=dataclasses.replace(TINY.compressor.text, **decoder)
    )
    llm = dataclasses.replace(TINY.llm, **decoder)
    video = dataclasses.replace(TINY.video, segment_frames=4, min_pixels=1024)
    return dataclasses.replace(TINY, compressor=compressor, llm=llm, memory_tokens=4, video=video)


def write_model(folder: Path) -> None:
    """A native checkpoint of random weights, folder/model."""
    from tempo_jax import checkpoint
    from tempo_jax.models import build

    config = architecture(write_tokenizer(folder / "tokenizer"))
    params = build.parameters(build.init(config))
    checkpoint.save(folder / "model", "tempo", config, params, folder / "tokenizer")


def config(model: Path, **changes):
    """A run of six steps on eight shards of one conversation each; changes: dotted names."""
    from tempo_jax.training.config import default

    values = default()
    values.init.checkpoint = str(model)
    values.learning_rate.update(RATES)
    values.update({"steps": STEPS, "dtype": "float32", "log_every": 1, "checkpoint_every": 3})
    values.mesh.fsdp = 1
    values.batch.update(
        {"shards": SHARDS, "segments": 1, "compressor_length": 128, "sequences": 1, "sequence_length": 64}
    )
    values.update_from_flattened_dict({name: _listed(value) for name, value in changes.items()})
    return values


def _listed(value):
    """Rows that came as JSON, as a config has them."""
    from ml_collections import ConfigDict

    rows = isinstance(value, list) and all(isinstance(row, dict) for row in value)
    return tuple(map(ConfigDict, value)) if rows else value


class Batches:
    """The pipeline's interface, with a random picture per shard and step."""

    hook = ""  # of HOOKS
    workdir: Path

    def __init__(self, config, tokenizer, model, shards):
        self.config, self.tokenizer, self.model = config, tokenizer, model
        self.next_of = dict.fromkeys(shards, 0)
        self.stats = {"samples": 0, "skipped": {"too long": 1}, "waste": {"segments": 0.25}}

    def __next__(self):
        import jax

        if self.hook:
            HOOKS[self.hook](self, min(self.next_of.values()))
        parts = [self._one(shard, number) for shard, number in self.next_of.items()]
        self.next_of = {shard: number + 1 for shard, number in self.next_of.items()}
        join = lambda *x: np.concatenate(x, 1 if x[0].shape[0] == 3 else 0)[None]  # noqa: E731
        return jax.tree.map(join, *parts)

    def _one(self, shard, number):
        from tempo_jax.data.batch_packing import BatchShape
        from tempo_jax.data.samples import Sample
        from tempo_jax.tasks.tempo import collate

        batch = self.config.batch
        shape = BatchShape(batch.segments, batch.compressor_length, batch.sequences, batch.sequence_length)
        rng = np.random.default_rng((shard, number))
        frames = rng.integers(0, 255, (1, 32, 32, 3), np.uint8)
        answer = ("Red.", "No ball.")[rng.integers(2)]
        talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
        one = collate([Sample(frames, None, talk)], self.tokenizer, self.model, shape)
        index = one.memory_index_BL
        offset = shard * batch.segments * self.model.memory_tokens
        return one._replace(memory_index_BL=np.where(index >= 0, index + offset, index))

    def get_state(self):
        return dict(self.next_of)

    def set_state(self, states):
        self.next_of = {shard: states[shard] for shard in self.next_of}

    def close(self):
        pass


# What may happen while batch `number` is made, on the thread that makes it.


def _await_checkpoint(batches: Batches) -> None:
    until = time.monotonic() + 120
    while not (batches.workdir / "checkpoints" / "3").exists():
        assert time.monotonic() < until, "no checkpoint of step 3"
        time.sleep(0.001)


def kill_in_step(batches: Batches, number: int) -> None:
    """After the checkpoint of step 3 is whole, while a later step runs."""
    if number == 5:
        _await_checkpoint(batches)
        os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(batches: Batches, number: int) -> None:
    """As soon as something of a checkpoint that is being written can be seen."""

    def watch() -> None:
        seen = set(batches.workdir.glob("checkpoints/*tmp*"))
        while not set(batches.workdir.glob("checkpoints/*tmp*/*")) - seen:
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGKILL)

    if number in (0, 3):
        threading.Thread(target=watch, daemon=True).start()


def terminate(batches: Batches, number: int) -> None:
    if number == 4:
        os.kill(os.getpid(), signal.SIGTERM)


def slow(batches: Batches, number: int) -> None:
    time.sleep(0.5)


def held(batches: Batches, number: int) -> None:
    """After the checkpoint of step 3 the run waits for workdir/go."""
    while number >= 4 and not (batches.workdir / "go").exists():
        time.sleep(0.02)


def full_disk(batches: Batches, number: int) -> None:
    """No file may grow beyond 32 KiB once the checkpoint of step 3 is whole."""
    if number >= 4:
        _await_checkpoint(batches)
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _on_process_1(number: int) -> bool:
    import jax

    return number == 2 and jax.process_index() == 1


def mistake_on_1(batches: Batches, number: int) -> None:
    if _on_process_1(number):
        from tempo_jax.errors import TempoError

        raise TempoError("the data set is missing: copy it to every host")


def bug_on_1(batches: Batches, number: int) -> None:
    if _on_process_1(number):
        raise ZeroDivisionError("division by zero")


def memory_on_1(batches: Batches, number: int) -> None:
    if _on_process_1(number):
        raise MemoryError("9 GB")


def worker_on_1(batches: Batches, number: int) -> None:
    """What grain raises when a process that reads was killed."""
    if _on_process_1(number):
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search the logs.")


def kill_1(batches: Batches, number: int) -> None:
    if _on_process_1(number):
        os.kill(os.getpid(), signal.SIGKILL)


def kill_0(batches: Batches, number: int) -> None:
    import jax

    if number == 2 and jax.process_index() == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def hang_on_1(batches: Batches, number: int) -> None:
    if _on_process_1(number):
        time.sleep(600)


def full_disk_on_1(batches: Batches, number: int) -> None:
    if _on_process_1(number):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


_HOOKS_OF_TWO = (
    mistake_on_1, bug_on_1, memory_on_1, worker_on_1, kill_1, kill_0, hang_on_1, full_disk_on_1,
)  # fmt: skip
HOOKS = {
    hook.__name__: hook
    for hook in (kill_in_step, kill_in_save, terminate, slow, held, full_disk, *_HOOKS_OF_TWO)
}


def train(model: Path, workdir: Path, hook: str = "", **changes) -> str:
    from tempo_jax.training import loop

    made = type("Hooked", (Batches,), {"hook": hook, "workdir": workdir})
    return loop.train(config(model, **changes), workdir, made)


def command(model: Path, workdir: Path, hook: str, changes: dict, *process: object) -> list[str]:
    """The same training in a process of its own."""
    arguments = (model, workdir, hook, json.dumps(changes), *process)
    return [sys.executable, "-m", "tests.tiny_training", *map(str, arguments)]


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def curve(workdir: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step; fails unless each step is there once."""
    found = rows(workdir)
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return [(row["loss"], row["gradient_norm"]) for row in found]


if __name__ == "__main__":
    model, workdir, hook, changes, *process = sys.argv[1:]
    from tempo_jax.training import peers
    from tempo_jax.utils import command_line
    from train import STATUS

    def main() -> int:
        joined = (
            peers.joined("train", process[0], 2, int(process[1]), 20) if process else contextlib.nullcontext()
        )
        with joined:
            return STATUS[train(Path(model), Path(workdir), hook, **json.loads(changes))]

    command_line.leave(command_line.run("train", main))
