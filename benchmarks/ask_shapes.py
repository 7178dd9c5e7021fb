"""Stages of asking about an hour of video in the real sizes, random weights, against PyTorch; for a GPU.

    python benchmarks/ask_shapes.py                                     Tempo-6B, 1024 frames, 8K budget
    python benchmarks/ask_shapes.py --model tiny --frames 16 --size 64x96 --budget 64 --new-tokens 4

Ours: the engine's own programs (`tempo plan` compiles the same) on the first device that JAX has. Theirs:
Hugging Face's Qwen3-VL and Qwen3 with SDPA attention on the same shapes; the question is computed with its
segment, as in the reference implementation. One process each; medians of --rounds after a run that compiles.
Peaks are of a bfloat16 product of 8192^3 in each. Weights are bfloat16.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STAGES = {  # of a row of the table -> the engine's programs
    "vision": ("vision chunk",),
    "compress": ("compressor prefix", "compressor question"),
    "prefill": ("prefill",),
    "decode": ("decode step",),
}


def median(run: Callable, wait: Callable, rounds: int, given: Callable[[], tuple] = tuple) -> float:
    """Seconds of run(*given()), after one that is not counted; making what is given is not, either."""
    records = []
    for _ in range(rounds + 1):
        args = wait(given())
        started = time.perf_counter()
        wait(run(*args))
        records.append(time.perf_counter() - started)
    return statistics.median(records[1:])


def programs(args):
    """The engine's programs on one device, and their mesh."""
    import jax

    from tempo_jax import sharding
    from tempo_jax.plan import programs_tempo
    from tempo_jax.plan.programs import read_config

    sizes = [f"ask.frames={args.frames}", f"ask.budget={args.budget}", f"ask.new_tokens={args.new_tokens}"]
    config = read_config(f"{ROOT}/configs/ask_6b.py:{args.model}", sizes)
    config.ask.size = args.size
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return mesh, programs_tempo.programs(config, mesh)


def ours(args) -> dict:
    import jax
    import jax.numpy as jnp

    from tempo_jax.runtime.placement import Placement

    mesh, records = programs(args)
    key, weights, seconds, flops = jax.random.key(0), {}, {}, {}

    def fill(x):
        """Random numbers. Integers are 0: shapes decide how much is done."""
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return (0.02 * jax.random.normal(key, x.shape)).astype(x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    def weight(x):
        """Once for all programs, which share them."""
        if id(x) not in weights:
            weights[id(x)] = (x, fill(x))  # x stays, and so its id
        return weights[id(x)][1]

    with Placement(mesh, exact=False)():
        for program in records:
            model, *rest = program.args
            model, runs = jax.tree.map(weight, model), program.runs
            decodes = program.name == "decode step"  # a loop: one run makes all tokens
            if decodes:
                runs = 1

            def given(rest=tuple(rest), decodes=decodes):
                """Anew for every run, as programs may consume what they are given."""
                made = jax.tree.map(fill, rest)
                return (
                    (made[0], jnp.full(made[0].count_B.shape, args.new_tokens, jnp.int32))
                    if decodes
                    else made
                )

            def run(*made, program=program, model=model):
                return program.function(model, *made, **program.kwargs)

            stage = next(stage for stage, names in STAGES.items() if program.name in names)
            took = runs * median(run, jax.block_until_ready, args.rounds, given)
            seconds[stage] = seconds.get(stage, 0) + took
            if decodes:
                made = int(run(*given()).count_B[0])
                assert made == args.new_tokens, f"an answer of {made} tokens: its weights end it too early"
            flops[stage] = flops.get(stage, 0) + program.runs * program.flops
        side = args.product
        square = jnp.ones((side, side), jnp.bfloat16)
        product = jax.jit(jnp.matmul)
        peak = 2 * side**3 / median(lambda: product(square, square), jax.block_until_ready, args.rounds)
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {"name": f"ours, jax {jax.__version__}", "device": device.device_kind, "seconds": seconds,
            "flops": flops, "peak": peak, "memory": memory}  # fmt: skip


def pytorch(args) -> dict:
    import torch

    from tempo_jax.models.presets import PRESETS
    from tests import torch_reference as reference

    preset = PRESETS[args.model]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = {program.name: (program.args, program.kwargs, program.runs) for program in programs(args)[1]}
    reference.randomise = lambda *_: None  # Hugging Face's own initialization is as good for times
    torch.set_default_dtype(torch.bfloat16)
    with device:
        vlm, llm = reference.qwen3_vl(preset.compressor, 0), reference.qwen3(preset.llm, 0)
    for model in (vlm, llm):
        model.set_attn_implementation("sdpa")

    def wait(x):
        if device.type == "cuda":
            torch.cuda.synchronize()
        return x

    (_, frames), _, chunks = shapes["vision chunk"]
    vision, (height, width) = preset.compressor.vision, args.size
    grid = (height // vision.patch_size, width // vision.patch_size)
    slices = frames.shape[1] // vision.temporal_patch_size
    patches = torch.randn(frames.shape[0] * slices * grid[0] * grid[1], vision.patch_dim, device=device)
    grids = torch.tensor([[slices, *grid]] * frames.shape[0], device=device)
    (_, _, rows), _, _ = shapes["compressor prefix"]
    question = shapes["compressor question"][0][5].shape[0]
    length = rows.token_ids_SL.shape[1] + question + preset.memory_tokens
    row = torch.randn(frames.shape[0], length, preset.compressor.text.hidden_size, device=device)
    bucket = shapes["prefill"][1]["bucket"]
    prompt = torch.randn(1, bucket, preset.llm.hidden_size, device=device)

    def prefill():
        return llm(inputs_embeds=prompt, use_cache=True, logits_to_keep=1)

    def decode(state):
        token = state.logits[:, -1:].argmax(-1)
        for _ in range(args.new_tokens):
            state = llm(input_ids=token, past_key_values=state.past_key_values, use_cache=True)
            token = state.logits[:, -1:].argmax(-1)

    with torch.inference_mode():
        seconds = {
            "vision": chunks * median(lambda: vlm.model.visual(patches, grid_thw=grids), wait, args.rounds),
            "compress": chunks
            * median(lambda: vlm.model.language_model(inputs_embeds=row, use_cache=False), wait, args.rounds),
            "prefill": median(prefill, wait, args.rounds),
        }
        # A cache grows with every token, so each run has its own.
        seconds["decode"] = median(decode, wait, args.rounds, lambda: (prefill(),))
        square = torch.ones(args.product, args.product, device=device)
        peak = 2 * args.product**3 / median(lambda: square @ square, wait, args.rounds)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"name": f"PyTorch {torch.__version__}", "device": kind, "seconds": seconds, "peak": peak,
            "memory": memory}  # fmt: skip


SIDES = {"ours": ours, "pytorch": pytorch}


def table(records: list[dict]) -> list[str]:
    """A line for each stage: seconds and share of each side's own matmul peak, then the ratio."""
    flops = records[0]["flops"]
    lines = []
    for stage in (*STAGES, "all"):
        cells = []
        for side in records:
            seconds = sum(side["seconds"].values()) if stage == "all" else side["seconds"][stage]
            work = sum(flops.values()) if stage == "all" else flops[stage]
            cells.append((seconds, work / seconds / side["peak"]))
        line = f"{stage:9}" + "".join(f"{seconds:10.3f} s {share:7.1%} of peak" for seconds, share in cells)
        lines.append(line + (f"   x {cells[1][0] / cells[0][0]:.2f}" if len(cells) > 1 else ""))
    return lines


def accelerator() -> bool:
    """Asked in a process of its own, which gives the GPU back."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip() != "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tempo-6b")
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--size", default="256x512", help="height x width at the model")
    parser.add_argument("--budget", type=int, default=8192, help="visual tokens")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--product", type=int, default=8192, help="side of the product that is the peak")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        args.size = tuple(map(int, args.size.split("x")))
        print(json.dumps(SIDES[args.side](args)))
        return
    if args.model == "tempo-6b" and not accelerator():
        print("not run: Tempo-6B wants a GPU; --model tiny tries the benchmark on a CPU")
        return
    records = []
    for side in SIDES:
        # PyTorch's process takes shapes alone from JAX, and nothing of the GPU.
        environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if side == "pytorch" else {})
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        if done.returncode:
            print(f"{side} did not run: what stopped it is above")
        else:
            records.append(json.loads(done.stdout.splitlines()[-1]))
    if not records or "flops" not in records[0]:
        sys.exit(1)
    for side in records:
        memory = "unknown" if side["memory"] is None else f"{side['memory'] / 2**30:.1f} GiB"
        print(f"{side['name']} on {side['device']}: peak {side['peak'] / 1e12:.3g} TFLOP/s, memory {memory}")
    print(f"{args.model}, {args.frames} frames of {args.size}, {args.budget} visual tokens, bfloat16")
    print("\n".join(table(records)))


if __name__ == "__main__":
    main()
