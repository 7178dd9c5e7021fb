"""Tempo-6B stage 2, broad supervised fine-tuning: questions about pictures and videos of up to a minute.

From the paper: the stage's name, the prompts and labels
(docs/reference/tempo.md#compressor-prompts, docs/reference/tempo.md#labels), and that ATA is off in training
(docs/reference/tempo.md#training). Nothing else of its recipe is public.

Trainable parameters and peak learning rates:

    vision     2e-6     the vision tower
    compressor 1e-5     the compressor's decoder
    memory     1e-5     memory tokens
    projector  1e-5     compressor to LLM
    llm        1e-5     the global LLM

Ours: the rates of VideoChat-Flash's third stage (docs/reference/tempo.md#training); up to 128 frames at 2
fps, 16 segments and 2,048 memory tokens a sample; a micro-batch packs conversations into 16 segments and one
row of the LLM, so that pictures and short clips fill what long ones leave; 128 micro-batches a step in two
halves; weight decay 0, 3 % warm-up, cosine. Frames at 256x512 (see stage 1).

    python -m tempo_jax.data.prepare --source=sft/pictures.jsonl --sizes=256x512 --target=data/sft_pictures
    python -m tempo_jax.data.prepare --source=sft/videos.jsonl --sizes=256x512 --max-frames=128 \\
        --target=data/sft_videos
    python train.py --config=configs/tempo_6b_stage2.py --workdir=build/tempo_6b/stage2 --distributed

It starts from stage 1's model; Vision-CAIR/Tempo-6B-Stage1, converted, is another start.

Expected (`tempo plan`, docs/results/plans.md; never run at this size): 64 chips of v5p take 2.3 s a
step and 49 of 96 GiB each, with config.mesh.data=2, config.mesh.fsdp=32 and config.remat=dots.
batch.shards is the number of data shards, so a multiple of the hosts.
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model = "tempo-6b"
    config.init.checkpoint = "build/tempo_6b/stage1/model"
    config.learning_rate.update(
        {"vision": 2e-6, "compressor": 1e-5, "memory": 1e-5, "projector": 1e-5, "llm": 1e-5}
    )
    config.steps = 10_000
    config.batch.update(
        {"shards": 64, "segments": 16, "compressor_length": 1024, "sequences": 1, "sequence_length": 3072}
    )
    config.batch.frame_sizes = ((256, 512),)
    config.batch.micro_batches = 2
    config.data.sources = (
        ConfigDict({"kind": "prepared", "path": "data/sft_pictures", "weight": 1.0}),
        ConfigDict({"kind": "prepared", "path": "data/sft_videos", "weight": 2.0}),
    )
    config.data.workers = 1
    config.checkpoint_every = 500
    return config
