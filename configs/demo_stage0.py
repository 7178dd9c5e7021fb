"""Demo model 6 of 9, Tempo's stage 0: modality alignment. Memory tokens and projector learn, nothing else.

As published (by the hints of facts/tempo.md §4.1): these two learn, from captions. Ours: minireel clips for
LCS-558K, questions beside them, a higher rate, since the model is small, and the compressor asked in the
words of inference, since it knows no prompt it was not trained on.

    python train.py --config=configs/demo_stage0.py --workdir=build/demo/stage0
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.compressor = "build/demo/ask/model"
    config.init.llm = "build/demo/note_long/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 0.0, "svlm": 0.0, "memory": 1e-2, "projector": 5e-3})
    config.steps = 200
    config.batch.update({"pool": 24, "row_length": 172, "conversations": 4, "length": 240})
    made = {"count": 1_000_000, "as_asked": True}
    reels = {**made, "kind": "minireel", "forms": {"worded": 0.6, "text": 0.4}}
    config.data.sources = (
        ConfigDict({**made, "kind": "minireel_clips", "seconds": (8, 16), "weight": 0.4}),
        ConfigDict({**reels, "seconds": (8, 16, 32), "weight": 0.6}),
    )
    return config
