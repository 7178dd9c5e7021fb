"""A small XComp on minireel, second of four: it learns to tell frames apart.

It goes on from xcomp_minireel_glimpse.py. Videos of 32 s, of which it sees a frame every 4 s, one of every
segment, all to be described: 8 frames, 8 captions, and seeing is learned for a quarter of what it costs
among questions. Ours.

What learns, and its peak learning rate (Muon for matrices, AdamW for the rest):

    vision     1e-3     the UMT tower, which is frozen in the published recipe
    compressor frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  2e-3     vision tower to LLM
    llm        2e-3     the LLM

    python train.py --config=configs/xcomp_minireel_see.py --workdir=build/xcomp/see
"""

from ml_collections import ConfigDict

from configs import xcomp_minireel_glimpse

REELS = {"kind": "minireel", "split": "train", "count": 100_000, "seconds": 32}


def get_config() -> ConfigDict:
    config = xcomp_minireel_glimpse.get_config()
    config.init.checkpoint = "build/xcomp/glimpse/model"
    config.init.tokenizer = ""
    config.learning_rate.update({"vision": 1e-3})
    config.batch.update({"micro_batches": 8, "segments": 8, "compressor_length": 160, "sequences": 1})
    config.data.sources = (ConfigDict({**REELS, "model_fps": 0.25, "with_captions": True, "max_turns": 0}),)
    config.data.packing_window = 64
    return config
