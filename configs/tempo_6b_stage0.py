"""Tempo-6B stage 0, modality alignment: memory tokens and projector learn to speak to a frozen LLM.

From the paper (docs/reference/tempo.md#training): the small VLM is Qwen3-VL-2B-Instruct, the LLM
Qwen3-4B; memory tokens start from the statistics of the small VLM's embeddings; the loss is next-token
cross-entropy through everything; all 128 memory tokens of a segment are used. Reported second hand: data
LCS-558K, memory tokens and projector learn. Nothing else of the recipe is public.

Trainable parameters and peak learning rates:

    vision     frozen   the vision tower
    compressor frozen   the compressor's decoder
    memory     1e-3     memory tokens
    projector  1e-3     compressor to LLM
    llm        frozen   the global LLM

Ours: learning rate 1e-3 and a batch of 256, as LLaVA and VideoChat-Flash align their connectors; weight decay
0, 3 % warm-up, then a cosine, as the ancestors (docs/reference/tempo.md#training); one epoch of 558,000 pairs
at 256 a step is 2,180 steps. Pictures are seen at 384x512 or 512x384, where the reference code would keep
each at its own size: one static shape serves a step. A picture takes about 192 visual tokens, 45 of prompt,
128 of memory.

    python -m convert.from_hf --model=qwen3 --source=Qwen3-4B --target=build/qwen3-4b
    python -m convert.from_hf --model=qwen3-vl --source=Qwen3-VL-2B-Instruct --target=build/qwen3-vl-2b
    python -m tempo_jax.data.prepare --source=LCS-558K/data.json --media=LCS-558K/images \\
        --sizes=384x512,512x384 --target=data/lcs
    python train.py --config=configs/tempo_6b_stage0.py --workdir=build/tempo_6b/stage0 --distributed

Expected (`tempo plan`, docs/results/plans.md; never run at this size): 64 chips of v5p take 0.20 s a
step and 8 of 96 GiB each, with config.mesh.data=2, config.mesh.fsdp=32 and config.remat=dots.
batch.shards is the number of data shards, so a multiple of the hosts.
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model = "tempo-6b"
    config.init.compressor = "build/qwen3-vl-2b"
    config.init.llm = "build/qwen3-4b"
    config.learning_rate.update({"memory": 1e-3, "projector": 1e-3})
    config.steps = 2_180
    config.batch.update(
        {"shards": 64, "segments": 4, "compressor_length": 448, "sequences": 1, "sequence_length": 1536}
    )
    config.batch.frame_sizes = ((384, 512), (512, 384))
    config.data.sources = (ConfigDict({"kind": "prepared", "path": "data/lcs"}),)
    config.data.workers = 1
    config.checkpoint_every = 500
    return config
