"""A small XComp trained from scratch on minireel, phase 1 of 4: captions of single images.

The paper's XComp starts from VideoChat-Flash-2B; this one is trained from scratch, for which single images,
of 16 tokens and one caption each, are the first step. The recipe is of this project.

Trainable parameters and peak learning rates (Muon for matrices, AdamW for the rest):

    vision     2e-3     the UMT tower, which is frozen in the published recipe
    compressor frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  2e-3     vision tower to LLM
    llm        2e-3     the LLM

    python train.py --config=configs/xcomp_minireel_glimpse.py --workdir=build/xcomp/glimpse
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.task = "xcomp"
    config.model = "xcomp-demo"
    config.lp_comp = "none"
    config.init.tokenizer = "minireel"
    config.learning_rate.update({"vision": 2e-3, "projector": 2e-3, "llm": 2e-3})
    config.optimizer.update({"kind": "muon", "b2": 0.99, "weight_decay": 0.01})
    config.steps = 1500
    config.dtype = "float32"
    config.remat = "none"
    config.batch.update({"segments": 0, "compressor_length": 32, "sequences": 62})
    config.data.sources = (
        ConfigDict(
            {"kind": "minireel_clip_captions", "count": 1_000_000, "seconds": (64, 512), "picture": True}
        ),
    )
    config.data.packing_window = 62
    config.checkpoint_every = 250
    return config
