"""A small XComp trained from nothing on minireel, LP-Comp switched on: what a run looks like, on a laptop.

The published recipe tunes a trained model (xcomp_2b_sct.py); a model from nothing has its vision tower and
everything else to learn as well. No accuracy is promised: nothing has been trained to its end here.

What learns, and its peak learning rate:

    vision     1e-3     the UMT tower, which is frozen in the published recipe
    svlm       frozen   (Tempo's, not in this model)
    memory     frozen   (Tempo's, not in this model)
    projector  1e-3     vision tower to LLM
    llm        1e-3     the LLM

    python train.py --config=configs/xcomp_minireel.py --workdir=build/xcomp/minireel
    tempo ask VIDEO QUESTION --checkpoint build/xcomp/minireel/model --fps 2
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.task = "xcomp"
    config.model = "xcomp-demo"
    config.init.tokenizer = "minireel"
    config.rates.update({"vision": 1e-3, "projector": 1e-3, "llm": 1e-3})
    config.steps = 1000
    config.dtype = "float32"
    config.remat = "none"
    config.batch.update({"pool": 8, "row_length": 192, "conversations": 2})
    config.data.sources = (
        ConfigDict({"kind": "minireel", "split": "train", "seconds": (16, 32), "forms": {"choice": 1.0}}),
    )
    return config
