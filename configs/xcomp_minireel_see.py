"""A small XComp trained from nothing on minireel, first of three: it learns to see.

Videos of 32 s, of which it sees a frame every 4 s, one of every segment, all to be described: so a clip of
8 frames has 8 captions, and seeing is learned for a quarter of what it costs among questions. Ours.

What learns, and its peak learning rate (Muon for matrices, AdamW for the rest):

    vision     2e-3     the UMT tower, which is frozen in the published recipe
    svlm       frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  2e-3     vision tower to LLM
    llm        2e-3     the LLM

    python train.py --config=configs/xcomp_minireel_see.py --workdir=build/xcomp/see
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default

REELS = {"kind": "minireel", "split": "train", "count": 100_000, "seconds": 32}


def get_config() -> ConfigDict:
    config = default()
    config.task = "xcomp"
    config.model = "xcomp-demo"
    config.compression = "none"
    config.init.tokenizer = "minireel"
    config.rates.update({"vision": 2e-3, "projector": 2e-3, "llm": 2e-3})
    config.optimiser.update({"kind": "muon", "b2": 0.99, "weight_decay": 0.01})
    config.steps = 1500
    config.dtype = "float32"
    config.remat = "none"
    config.batch.update({"micro_batches": 8, "pool": 1, "row_length": 160, "conversations": 1})
    config.data.sources = (ConfigDict({**REELS, "look_fps": 0.25, "described": True, "turns": 0}),)
    config.checkpoint_every = 250
    return config
