"""Tempo-6B stage 1, pre-training: everything learns, from captions of pictures and short clips.

From the paper: the stage's name, and that ATA is off in training
(docs/reference/tempo.md#training). Nothing else of its recipe is public.

Trainable parameters and peak learning rates:

    vision     2e-6     the vision tower
    compressor 1e-5     the compressor's decoder
    memory     1e-5     memory tokens
    projector  1e-5     compressor to LLM
    llm        1e-5     the global LLM

Ours: the rates of VideoChat-Flash's second stage, 1e-5 and 2e-6 for its vision tower, which the authors name
as an ancestor (docs/reference/tempo.md#training); one segment a sample (up to 8 frames at 2 fps, the
ancestor's 8), pictures and clips in equal parts; weight decay 0, 3 % warm-up, cosine; 10,000 steps of 512
samples, about 5 million. Frames at 256x512, where 16:9 ends up in the reference code
(docs/reference/tempo.md#frame-sizes); sets of other shapes want another size and a row_length to match
(384x512: 1152).

    python -m tempo_jax.data.prepare --source=captions/pictures.jsonl --sizes=256x512 --target=data/pictures
    python -m tempo_jax.data.prepare --source=captions/clips.jsonl --sizes=256x512 --max-frames=8 \\
        --target=data/clips
    python train.py --config=configs/tempo_6b_stage1.py --workdir=build/tempo_6b/stage1 --distributed

It starts from stage 0's model; Vision-CAIR/Tempo-6B-Stage0, converted, is another start:
--config.init.checkpoint=build/tempo-6b-stage0.

Expected (`tempo plan`, docs/results/plans.md; never run at this size): 64 chips of v5p take 0.67 s a
step and 28 of 96 GiB each, with config.mesh.data=2, config.mesh.fsdp=32 and config.remat=dots.
batch.shards is the number of data shards, so a multiple of the hosts.
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model = "tempo-6b"
    config.init.checkpoint = "build/tempo_6b/stage0/model"
    config.learning_rate.update(
        {"vision": 2e-6, "compressor": 1e-5, "memory": 1e-5, "projector": 1e-5, "llm": 1e-5}
    )
    config.steps = 10_000
    config.batch.update(
        {"shards": 64, "segments": 8, "compressor_length": 896, "sequences": 1, "sequence_length": 2560}
    )
    config.batch.frame_sizes = ((256, 512),)
    config.data.sources = (
        ConfigDict({"kind": "prepared", "path": "data/pictures", "weight": 1.0}),
        ConfigDict({"kind": "prepared", "path": "data/clips", "weight": 1.0}),
    )
    config.data.workers = 1
    config.checkpoint_every = 500
    return config
