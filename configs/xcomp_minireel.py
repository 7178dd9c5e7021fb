"""A small XComp on minireel, phase 3 of 4: question answering.

What VideoChat-Flash-2B is to the published recipe (xcomp_2b_sct.py), this is to xcomp_minireel_sct.py: a
model that answers with all its tokens in all layers. It starts from xcomp_minireel_see.py. Half of the
samples ask for a caption of every segment, half ask questions; all are videos of 32 s at one frame per
second. The recipe is of this project.

Trainable parameters and peak learning rates (Muon for matrices, AdamW for the rest):

    vision     5e-4     the UMT tower, which is frozen in the published recipe
    compressor frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  1e-3     vision tower to LLM
    llm        1e-3     the LLM

    python train.py --config=configs/xcomp_minireel.py --workdir=build/xcomp/minireel
    tempo ask VIDEO QUESTION --checkpoint build/xcomp/minireel/model --fps 1
"""

from ml_collections import ConfigDict

from configs import xcomp_minireel_see

REELS = {**xcomp_minireel_see.REELS, "model_fps": 1.0, "forms": {"worded": 0.6, "text": 0.4}}


def get_config() -> ConfigDict:
    config = xcomp_minireel_see.get_config()
    config.init.checkpoint = "build/xcomp/see/model"
    config.learning_rate.update({"vision": 5e-4, "projector": 1e-3, "llm": 1e-3})
    config.batch.update({"micro_batches": 2, "segments": 32, "compressor_length": 216})
    config.data.sources = (
        ConfigDict({**REELS, "with_captions": True}),
        ConfigDict({**REELS, "max_turns": 3}),
    )
    return config
