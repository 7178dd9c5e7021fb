"""CPU time and memory of loading a checkpoint, by stage, against reading its bytes; one run.

    python benchmarks/load.py [--size 1.0] [--dtype float32] [--rounds 5] [--folder DIR] [--out FILE]

Writes a random Tempo in the published layout (0.63 B parameters, of which 0.27 B are embeddings) and
converts it, then, round by round, in a child process each: reading the files' bytes into memory, safetensors'
own loader, and every way to load the model: `tempo_jax.load` of the native checkpoint, of Hugging Face's
files (`convert.direct.load_hf`), the parameters of a training run, and `eval.py`'s. Prints the medians of CPU
and wall seconds and of peak memory by stage, and ratios of the least CPU times, to which other processes of
the machine add. Targets: what follows imports and tokenizer takes at most twice the CPU time of reading, and
the peak is at most 1.2 times the model beyond what the process held before.
"""

import argparse
import dataclasses
import json
import math
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

TIMES_READING, TIMES_MODEL = 2.0, 1.2
MIB = 2**20
GENERATE = """if True:
    import pathlib, sys
    from benchmarks import load
    load.generate(pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
"""
BEFORE = ("imports", "tokenizer")  # stages that no checkpoint's size matters for


class Stages:
    """CPU seconds, wall seconds and peak resident memory of each stage of this process."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self.rows: dict[str, dict[str, float]] = {}
        self._last = (0.0, time.perf_counter())

    def touch(self) -> None:
        """Takes and frees the memory of a model, outside of any stage.

        Pages that the host of a virtual machine has to find first cost several times the reading.
        """
        import numpy as np

        np.ones(int(self._nbytes * 1.2), np.uint8)
        self._start()

    def end(self, name: str) -> None:
        """Ends a stage and starts the next one."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        now = usage.ru_utime + usage.ru_stime, time.perf_counter()
        resident, peak = memory()
        row = {"cpu": now[0] - self._last[0], "wall": now[1] - self._last[1], "peak": peak, "held": resident}
        self.rows[name] = row
        self._start()

    def _start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._last = usage.ru_utime + usage.ru_stime, time.perf_counter()


def memory() -> tuple[float, float]:
    """Resident memory of this process now and at its peak, MiB."""
    status = Path("/proc/self/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(values[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


def read_bytes(folder: Path, stages: Stages) -> None:
    """All files of a folder into memory that stays: what no loader that copies can do without."""
    import numpy as np

    stages.end("imports")
    stages.touch()
    held = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            held.append(np.fromfile(path, np.uint8))
    stages.end("reading")


def read_safetensors(folder: Path, stages: Stages) -> None:
    import ml_dtypes  # noqa: F401
    from safetensors.numpy import load_file

    stages.end("imports")
    stages.touch()
    held = load_file(folder / "model.safetensors")
    assert held
    stages.end("reading")


def prepare(stages: Stages, tokenizer: Path):
    """Imports of the library and jax's start, then the tokenizer, which `load` finds loaded."""
    import jax

    import tempo_jax.checkpoint
    import tempo_jax.tempo.engine  # noqa: F401
    from tempo_jax.prompts import Tokenizer

    jax.device_put(0.0).block_until_ready()
    stages.end("imports")
    loaded = Tokenizer(tokenizer)
    stages.end("tokenizer")
    return loaded


def load_native(folder: Path, stages: Stages) -> None:
    prepare(stages, folder / "tokenizer")
    import jax

    import tempo_jax
    from tempo_jax.models import build

    stages.touch()
    _mark_end(build, "build", stages, "reading")
    tempo = tempo_jax.load(folder)
    jax.block_until_ready(tempo.model)
    stages.end("building")


def load_eval(folder: Path, stages: Stages) -> None:
    prepare(stages, folder / "tokenizer")
    import jax

    from tempo_jax.evaluation import checkpoint_id, config, systems

    stages.end("imports of eval")
    stages.touch()
    values = config.default()
    values.checkpoint = str(folder)
    checkpoint_id.fingerprint(folder)
    stages.end("fingerprint")
    system = systems.TempoSystem(values)
    jax.block_until_ready(system.model.model)
    stages.end("reading")


def load_train(folder: Path, stages: Stages) -> None:
    tokenizer = prepare(stages, folder / "tokenizer")
    import jax

    from tempo_jax.training import config, initialization, run_state

    stages.end("imports of training")
    stages.touch()
    values = config.default()
    values.init.checkpoint = str(folder)
    values.task = "tempo"
    values.model = ""
    mesh = run_state.make_mesh(values)
    model = initialization.architecture(values)
    params = initialization.parameters(values, model.config, tokenizer, mesh)
    jax.block_until_ready(params)
    stages.end("reading")


def load_hf(folder: Path, stages: Stages) -> None:
    tokenizer = prepare(stages, folder)
    import jax

    from convert.direct import load_hf
    from tempo_jax import sharding
    from tempo_jax.tempo.engine import Tempo

    stages.end("imports of convert")
    stages.touch()
    config, params = load_hf(
        "tempo", folder, sharding.make_mesh(), base=folder.parent / "base", per_layer=True
    )
    jax.block_until_ready(params)
    stages.end("reading")
    tempo = Tempo(config, params, tokenizer)
    jax.block_until_ready(tempo.model)
    stages.end("building")


def _mark_end(module, name: str, stages: Stages, stage: str) -> None:
    """Ends a stage when a function is first called."""
    function = getattr(module, name)

    def marked(*args, **kwargs):
        setattr(module, name, function)
        stages.end(stage)
        return function(*args, **kwargs)

    setattr(module, name, marked)


CHILDREN = {
    "read": (read_bytes, "native/params"),
    "safetensors": (read_safetensors, "hf"),
    "native": (load_native, "native"),
    "Hugging Face": (load_hf, "hf"),
    "training": (load_train, "native"),
    "evaluation": (load_eval, "native"),
}


def child(name: str, folder: Path) -> None:
    stages = Stages((folder / "hf" / "model.safetensors").stat().st_size)
    stages.end("start")
    function, inside = CHILDREN[name]
    function(folder / inside, stages)
    print(json.dumps(stages.rows))


def run(name: str, folder: Path) -> dict:
    """The stages of one child process."""
    command = [sys.executable, __file__, "--child", name, "--folder", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def architecture(size: float):
    """A Tempo of 0.63 B parameters times `size`, by its layers; the vocabulary is Qwen's."""
    from tempo_jax.models import presets

    def layers(count: int) -> int:
        return max(3, round(count * size))

    whole, svlm = presets.TEMPO_6B, presets.QWEN3_VL_2B
    vision = dataclasses.replace(
        svlm.vision, hidden_size=768, intermediate_size=3072, num_heads=12, out_hidden_size=768,
        depth=layers(12), deepstack_layers=(0, 1, 2),
    )  # fmt: skip
    text = dataclasses.replace(
        svlm.text, hidden_size=768, intermediate_size=2304, num_heads=8, num_kv_heads=4, num_layers=layers(8)
    )
    llm = dataclasses.replace(
        whole.llm, hidden_size=1024, intermediate_size=3072, num_heads=16, num_layers=layers(10)
    )
    compressor = dataclasses.replace(svlm, vision=vision, text=text)
    return dataclasses.replace(whole, compressor=compressor, llm=llm)


def generate(folder: Path, size: float, dtype: str) -> None:
    """Writes folder/hf and its base, and folder/native."""
    import ml_dtypes
    import numpy as np

    from convert import from_hf, hf_export, mapping
    from convert.safetensors_io import NAMES, Writer
    from tempo_jax.data import demo_tokenizer

    config, numpy_dtype = architecture(size), np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(1 << 24, dtype=np.float32) * 0.02).astype(numpy_dtype)
    models = {"hf": ("tempo", config), "base": ("qwen3-vl", config.compressor)}
    for name, (kind, of) in models.items():
        (folder / name).mkdir(parents=True)
        shapes = {hf: t.hf_shape for t in mapping.tensors(kind, of) for hf in t.hf}
        specs = [(hf, NAMES[numpy_dtype], shape) for hf, shape in shapes.items()]
        with Writer(folder / name, specs, 1 << 40) as writer:
            for hf, shape in shapes.items():
                count = math.prod(shape)
                values = np.resize(np.roll(pool, int(rng.integers(len(pool)))), count).reshape(shape)
                writer.write(hf, values + np.ones((), numpy_dtype) if len(shape) == 1 else values)
        (folder / name / "config.json").write_text(json.dumps(hf_export.export(kind, of, {}, dtype)))
    demo_tokenizer.write(folder / "hf")
    from_hf.convert("tempo", folder / "hf", folder / "native", base=folder / "base")


def table(rounds: list[dict], nbytes: int) -> list[str]:
    """The medians, as Markdown, and a line for each target."""
    reading = min(each["read"]["reading"]["cpu"] for each in rounds)
    lines = ["| way | stage | CPU s | wall s | peak MiB | held MiB |", "|---|---|---|---|---|---|"]
    notes = []
    for name in CHILDREN:
        for stage in rounds[0][name]:
            cells = [
                f"{statistics.median(each[name][stage][key] for each in rounds):{form}}"
                for key, form in (("cpu", ".2f"), ("wall", ".2f"), ("peak", ".0f"), ("held", ".0f"))
            ]
            lines.append(f"| {name} | {stage} | {' | '.join(cells)} |")
        if name == "read":
            continue
        seconds, memories = [], []
        for each in rounds:
            rows = [row for stage, row in each[name].items() if not _before(stage)]
            held = [row["held"] for stage, row in each[name].items() if _before(stage)][-1]
            seconds.append(sum(row["cpu"] for row in rows))
            memories.append((max(row["peak"] for row in rows) - held) * MIB / nbytes)
        notes.append(
            f"{name}: {min(seconds):.2f} s of CPU ({statistics.median(seconds):.2f} median, "
            f"{max(seconds):.2f} most), {min(seconds) / reading:.2f} times reading (target {TIMES_READING}); "
            f"peak {max(memories):.2f} times the model (target {TIMES_MODEL})"
        )
    return [*lines, "", f"{nbytes / 1e9:.2f} GB of weights, read in {reading:.2f} s of CPU", *notes]


def _before(stage: str) -> bool:
    return stage == "start" or stage.startswith(BEFORE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=1.0, help="number of layers, relative (1.0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written, or are already")
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    parser.add_argument("--child", choices=tuple(CHILDREN), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder)
        return
    folder = args.folder or Path(tempfile.mkdtemp(prefix="load_"))
    try:
        if not (folder / "native").exists():
            written = [str(folder), str(args.size), args.dtype]
            subprocess.run([sys.executable, "-c", GENERATE, *written], cwd=REPO, check=True)
        nbytes = (folder / "hf" / "model.safetensors").stat().st_size
        rounds = []
        for number in range(args.rounds + 1):
            done = {name: run(name, folder) for name in CHILDREN}
            if number:  # the first one fills the page cache
                rounds.append(done)
            print(f"round {number} of {args.rounds}", file=sys.stderr, flush=True)
        print("\n".join(table(rounds, nbytes)))
        if args.out:
            args.out.write_text(json.dumps(rounds, indent=1) + "\n")
    finally:
        if not args.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
