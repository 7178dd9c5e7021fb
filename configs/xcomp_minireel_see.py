"""A small XComp on minireel, phase 2 of 4: captions of frames in a video.

It starts from xcomp_minireel_glimpse.py. Videos of 32 s at one frame in 4 s, one for each segment, all to be
captioned: 8 frames, 8 captions, at a quarter of the cost of learning the same from questions. The recipe is
of this project.

Trainable parameters and peak learning rates (Muon for matrices, AdamW for the rest):

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
