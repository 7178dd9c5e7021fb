"""FLOPs of XComp's prefill with LP-Comp relative to without, beside the paper's figures.

    python benchmarks/xcomp_cost.py

Counted (tempo_jax/xcomp/cost.py), nothing is run: the LLM of XComp-2B, 863 text tokens, without the vision
tower and scoring. Published: TFLOPs of the paper's table, rounded (docs/reference/xcomp.md#cost).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tempo_jax.models.presets import XCOMP_2B
from tempo_jax.xcomp import cost

TEXT = 863  # tokens
PUBLISHED = {1024: (20, 43), 2048: (58, 132), 4096: (187, 448)}  # frames -> TFLOPs with, without


def main() -> None:
    print("| frames | FLOPs, counted | published | keys and values |\n|---:|---:|---:|---:|")
    for frames, (published, of) in PUBLISHED.items():
        few, all_ = (cost.prefill_flops(XCOMP_2B, TEXT, frames, compress=c) / 1e12 for c in (True, False))
        held, without = (cost.cache_bytes(XCOMP_2B, TEXT, frames, compress=c) / 2**20 for c in (True, False))
        cells = (
            str(frames),
            f"{few / all_:.2f} ({few:.0f} of {all_:.0f} T)",
            f"{published / of:.2f} ({published} of {of} T)",
            f"{held / without:.2f} ({held:.0f} of {without:.0f} MiB)",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
