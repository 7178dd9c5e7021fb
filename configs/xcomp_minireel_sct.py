"""A small XComp on minireel, phase 4 of 4: supervised compression tuning, a small xcomp_2b_sct.py.

The model of xcomp_minireel.py is tuned with LP-Comp, on questions only.
`--config.lp_comp=none` is the same tuning without it, to compare with (docs/guides/xcomp.md).

Trainable parameters and peak learning rates (Muon for matrices, AdamW for the rest):

    vision     frozen   the UMT tower
    compressor frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  5e-4     vision tower to LLM
    llm        5e-4     the LLM

    python train.py --config=configs/xcomp_minireel_sct.py --workdir=build/xcomp/sct
"""

from ml_collections import ConfigDict

from configs import xcomp_minireel


def get_config() -> ConfigDict:
    config = xcomp_minireel.get_config()
    config.lp_comp = "released"
    config.init.checkpoint = "build/xcomp/minireel/model"
    config.learning_rate.update({"vision": 0.0, "projector": 5e-4, "llm": 5e-4})
    config.steps = 400
    config.data.sources = (ConfigDict({**xcomp_minireel.REELS, "start": 100_000, "max_turns": 3}),)
    return config
