"""Tempo-6B stage 3, long-context fine-tuning: up to 384 frames, 48 segments of 128 memory tokens.

From the paper: the stage's name, that ATA is off in training, and that one set of weights serves
all budgets (docs/reference/tempo.md#training). Reported second hand: up to 384 frames. That makes 6,144
memory tokens and about 350 of time tags a sample. Nothing else of its recipe is public.

Trainable parameters and peak learning rates:

    vision     1e-6     the vision tower
    compressor 5e-6     the compressor's decoder
    memory     5e-6     memory tokens
    projector  5e-6     compressor to LLM
    llm        5e-6     the global LLM

Ours: half of stage 2's rates (LongVU fine-tunes on video at half of its image rate,
docs/reference/tempo.md#training); one long video a micro-batch or several shorter ones, 64 micro-batches a
step; a fifth of the samples comes from stage 2's data, so that short videos and pictures are not forgotten;
weight decay 0, 3 % warm-up, cosine. Frames at 256x512 (see stage 1).

    python -m tempo_jax.data.prepare --source=long/videos.jsonl --sizes=256x512 --max-frames=384 \\
        --target=data/long_videos
    python train.py --config=configs/tempo_6b_stage3.py --workdir=build/tempo_6b/stage3 --distributed

It starts from stage 2's model; Vision-CAIR/Tempo-6B-Stage2, converted, is another start.

Expected (`tempo plan`, docs/results/plans.md; never run at this size): 64 chips of v5p take 3.4 s a
step and 46 of 96 GiB each, with config.mesh.data=2, config.mesh.fsdp=32 and
config.remat=attention,attention,dots; 64 of v6e 3.4 s with config.remat=attention,full,attention.
batch.shards is the number of data shards, so a multiple of the hosts.
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model = "tempo-6b"
    config.init.checkpoint = "build/tempo_6b/stage2/model"
    config.learning_rate.update(
        {"vision": 1e-6, "compressor": 5e-6, "memory": 5e-6, "projector": 5e-6, "llm": 5e-6}
    )
    config.steps = 4_000
    config.batch.update(
        {"shards": 64, "segments": 48, "compressor_length": 1024, "sequences": 1, "sequence_length": 7168}
    )
    config.batch.frame_sizes = ((256, 512),)
    config.data.sources = (
        ConfigDict({"kind": "prepared", "path": "data/long_videos", "weight": 4.0}),
        ConfigDict({"kind": "prepared", "path": "data/sft_videos", "weight": 1.0}),
    )
    config.data.workers = 1
    config.checkpoint_every = 250
    return config
