"""Demo model 4 of 6, Tempo's stage 0: modality alignment. Memory tokens and projector learn, nothing else.

As published (by the hints of facts/tempo.md §4.1): these two learn, from captions. Ours: minireel clips for
LCS-558K, and a higher rate, since the model is small.

    python train.py --config=configs/demo_stage0.py --workdir=build/demo/stage0
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.compressor = "build/demo/ask/model"
    config.init.llm = "build/demo/llm/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 0.0, "svlm": 0.0, "memory": 1e-2, "projector": 5e-3})
    config.steps = 300
    config.batch.update({"pool": 24, "row_length": 108, "conversations": 4, "length": 320})
    config.data.sources = (ConfigDict({"kind": "minireel_clips", "count": 1_000_000, "seconds": (8, 16)}),)
    return config
