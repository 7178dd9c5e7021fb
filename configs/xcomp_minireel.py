"""A small XComp on minireel, third of four: it learns to answer.

What VideoChat-Flash-2B is to the published recipe (xcomp_2b_sct.py), this is to xcomp_minireel_sct.py: a
model that answers with all its tokens in all layers. It goes on from xcomp_minireel_see.py; half of the
samples are to be described segment by segment, half ask questions; all are videos of 32 s, of which it sees a
frame every second. Ours, all of it.

What learns, and its peak learning rate (Muon for matrices, AdamW for the rest):

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
