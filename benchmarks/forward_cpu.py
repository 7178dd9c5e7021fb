"""Our float32 forward pass against Hugging Face's on a CPU: the same small Qwen3-VL and the same video.

    python benchmarks/forward_cpu.py [--frames 32] [--rounds 5]

One process, the two by turns, in seconds of CPU, as the machine may be busy. Compilation is reported apart.
Random weights; what both compute is compared first. Needs the test extra (PyTorch).
"""

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tempo_jax.models.config import QWEN_IDS, Qwen3VLConfig  # noqa: E402
from tempo_jax.models.presets import TEMPO_6B  # noqa: E402
from tempo_jax.models.qwen3_vl import PromptBatch  # noqa: E402
from tempo_jax.prompts import pad_rows  # noqa: E402
from tests import torch_reference as reference  # noqa: E402

# The published Qwen3-VL-2B at about a third of its widths and half of its layers.
PUBLISHED = TEMPO_6B.compressor
TEXT = dataclasses.replace(
    PUBLISHED.text, hidden_size=640, intermediate_size=1920, num_layers=14, num_heads=8, num_kv_heads=4,
    head_dim=80, mrope_sections=(16, 12, 12),
)  # fmt: skip
VISION = dataclasses.replace(
    PUBLISHED.vision, hidden_size=384, intermediate_size=1536, depth=12, num_heads=6,
    deepstack_layers=(3, 6, 9), out_hidden_size=TEXT.hidden_size,
)  # fmt: skip
GRID = (16, 32)  # patches of a slice: frames of 256x512
TEXT_TOKENS = 40  # around the video


def prompt(rng: np.random.RandomState, slices: int) -> list[int]:
    row = list(rng.randint(0, 1000, TEXT_TOKENS // 2))
    for _ in range(slices):
        row += [*rng.randint(0, 1000, 6), *[QWEN_IDS.video_pad] * (GRID[0] * GRID[1] // 4)]
    return [*row, *rng.randint(0, 1000, TEXT_TOKENS // 2)]


@jax.jit
def ours_forward(model, patches, rows):
    """The next token's logits after one video."""
    hidden = model(model.encode_patches(patches, GRID), rows)
    return model.text.logits(hidden[:, -1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=32, help="an even number (32)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, slices = np.random.RandomState(0), args.frames // 2
    config = Qwen3VLConfig(vision=VISION, text=TEXT)
    torch_model = reference.qwen3_vl(config, 0)
    native_model = reference.native("qwen3-vl", config, torch_model)
    torch_model.set_attn_implementation("sdpa")

    row = prompt(rng, slices)
    padded = pad_rows([row], len(row), (GRID[0] // 2, GRID[1] // 2))
    patches = rng.uniform(-1, 1, (slices, GRID[0] * GRID[1], 1536)).astype(np.float32)
    rows, pixels = PromptBatch(*map(jnp.asarray, padded[:3])), jnp.asarray(patches)[None]
    arguments = {
        "pixel_values_videos": torch.tensor(patches.reshape(-1, 1536)),
        "video_grid_thw": torch.tensor([[slices, *GRID]]),
        "mm_token_type_ids": torch.tensor((padded.visual_index_SL >= 0).astype(np.int32) * 2),
        "attention_mask": torch.ones((1, len(row)), dtype=torch.int64),
        "logits_to_keep": 1,
    }
    ids = torch.tensor(padded.token_ids_SL.astype(np.int64))

    def run_ours():
        return jax.block_until_ready(ours_forward(native_model, pixels, rows))

    def run_theirs():
        with torch.inference_mode():
            return torch_model(ids, **arguments).logits[:, -1]

    started = time.process_time()
    logits = run_ours()
    first = time.process_time() - started
    apart = reference.difference(logits, run_theirs())
    assert apart < 1e-3, f"they differ by {apart:.1e}"
    times = {"ours": [], "PyTorch": []}
    for _ in range(args.rounds):
        for name, run in (("ours", run_ours), ("PyTorch", run_theirs)):
            started = time.process_time()
            run()
            times[name].append(time.process_time() - started)
    medians = {name: statistics.median(found) for name, found in times.items()}
    weights = sum(p.numel() for p in torch_model.parameters())
    print(f"{weights / 1e6:.0f} M parameters, {args.frames} frames of 256x512, {len(row)} tokens, float32")
    print(f"logits differ by at most {apart:.1e} of the largest")
    for name, found in times.items():
        print(f"{name}: median {medians[name]:.2f} s of CPU ({min(found):.2f} to {max(found):.2f})")
    print(
        f"PyTorch {torch.__version__} takes {medians['PyTorch'] / medians['ours']:.2f} times as long as ours"
    )
    print(f"compiling took {first - medians['ours']:.1f} s, once for each shape")


if __name__ == "__main__":
    main()
