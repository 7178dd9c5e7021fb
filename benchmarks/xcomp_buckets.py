"""Length buckets for XComp's pool: what stays empty, and batches needed, with and without them.

    python benchmarks/xcomp_buckets.py

Videos of 16 to 1024 frames as numbers of clips, packed as training packs them (pool 128, windows of 64). The
vision tower sees every clip of a pool, padding included, so batches needed x pool is what a pass costs.
"""

import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs import xcomp_2b_sct
from tests.bucket_padding import MIXTURES, padding

COUNT = 4000


def main() -> None:
    batch = xcomp_2b_sct.get_config().batch
    plain = ConfigDict(batch.to_dict())
    plain.buckets = ()
    print(f"buckets {tuple(batch.buckets)}, pool {batch.segments}, {COUNT} videos of each mixture")
    print("| frames, 16 to 1024 | padding of segments | without buckets | vision work with / without |")
    print("|---|---|---|---|")
    for name, make in MIXTURES.items():
        clips = make(np.random.default_rng(0), COUNT)
        with_, without = padding(clips, batch), padding(clips, plain)
        print(f"| {name} | {with_:.1%} | {without:.1%} | {(1 - without) / (1 - with_):.2f} |")


if __name__ == "__main__":
    main()
