"""XComp-2B, supervised compression tuning: VideoChat-Flash-2B learns to answer with LP-Comp switched on.

Published (facts/xcomp.md §4): one epoch of 2.5 % of the base model's fine-tuning mixture, 71,904 samples in
2,247 steps of 32; AdamW (0.9, 0.999, 1e-8), no weight decay, gradients clipped at 1; peak 1e-5, 3 % warm-up,
cosine to 0; bfloat16; 128 to 1024 frames at up to 8 a second, in clips of 8; at most 32,768 tokens. It took
19.7 h on 8 GPUs; the loss went from 0.701 (first 200 steps) to 0.668 (steps 2,000 to 2,200).

What learns, and its peak learning rate:

    vision     frozen   the UMT tower
    svlm       frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  1e-5     vision tower to LLM
    llm        1e-5     embeddings, layers and norms

As published a sample has one video or one image (16 of the 84 sets have images). Ours: the projector also
learns from videos of 512 frames and more, which the published run encodes without gradients; at most 1,024
text tokens a sample; 8 shards of 4 micro-batches, which are 32 long videos a step or, as a pool of 128 clips
is shared, more of shorter ones (length buckets: data/buckets.py). What the mixture is made of: facts §4.

    python -m convert.from_hf --model=xcomp --source=VideoChat-Flash-2B --target=build/xcomp_2b/base
    python -m tempo_jax.data.prepare --source=mixture.yaml --sizes=448x448 --fps=8 --min-frames=128 \\
        --max-frames=1024 --target=data/xcomp_videos
    python train.py --config=configs/xcomp_2b_sct.py --workdir=build/xcomp_2b/sct --distributed

Expected chips, memory and step time: not known yet; nothing has been run at this size here, and `tempo plan`
takes more than 25 minutes of a core for this step, whose layers have 16 lengths, forward and backward.
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.task = "xcomp"
    config.seed = 42
    config.model = "xcomp-2b"
    config.init.checkpoint = "build/xcomp_2b/base"
    config.rates.update({"projector": 1e-5, "llm": 1e-5})
    config.steps = 2_247
    # pool: clips of 8 frames; row_length: text tokens. An LLM row has room for both (tasks/xcomp.py).
    config.batch.update(
        {"shards": 8, "micro_batches": 4, "pool": 128, "row_length": 1024, "conversations": 1}
    )
    config.batch.buckets = (16, 32, 64, 96, 128)  # clips: short videos share a pool
    config.batch.sizes = ((448, 448),)
    config.data.sources = (
        ConfigDict({"kind": "prepared_part", "path": "data/xcomp_videos", "percent": 10.0, "stop": 0.25}),
    )
    config.data.workers = 1
    config.checkpoint_every = 200
    return config
