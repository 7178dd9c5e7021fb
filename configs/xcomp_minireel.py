"""A small XComp trained from nothing on minireel, first of two: it learns to see and to answer.

What VideoChat-Flash-2B is to the published recipe (xcomp_2b_sct.py), this is to xcomp_minireel_sct.py: a
model that answers with all its tokens in all layers. Half of the samples are to be described segment by
segment, half ask questions; all are videos of 32 s, of which it sees a frame every 2 s. Ours, all of it;
docs/xcomp.md has what came out.

What learns, and its peak learning rate (Muon for matrices, AdamW for the rest):

    vision     2e-3     the UMT tower, which is frozen in the published recipe
    svlm       frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  2e-3     vision tower to LLM
    llm        2e-3     the LLM

    python train.py --config=configs/xcomp_minireel.py --workdir=build/xcomp/minireel
    tempo ask VIDEO QUESTION --checkpoint build/xcomp/minireel/model --fps 0.5
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default

REELS = {
    "kind": "minireel",
    "split": "train",
    "count": 100_000,
    "seconds": 32,
    "sample_fps": 0.5,
    "forms": {"worded": 0.6, "text": 0.4},
}


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
    config.batch.update({"micro_batches": 4, "pool": 2, "row_length": 168, "conversations": 1})
    config.data.sources = (
        ConfigDict({**REELS, "described": True}),
        ConfigDict({**REELS, "turns": 3}),
    )
    config.checkpoint_every = 250
    return config
