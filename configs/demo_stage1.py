"""Demo model 7 of 8, Tempo's stages 1 and 2 in one: all but the vision tower learns, from questions
about short videos.

What is published is that there are such stages (facts/tempo.md §4.1); data, rates and lengths are ours, and
the low rate of the small VLM, whose answers of Yes and No are not trained any more and must not be lost.

    python train.py --config=configs/demo_stage1.py --workdir=build/demo/stage1
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.checkpoint = "build/demo/stage0/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 0.0, "svlm": 5e-4, "memory": 2e-3, "projector": 1e-3, "llm": 1e-3})
    config.steps = 900
    config.batch.update({"pool": 32, "row_length": 172, "conversations": 2, "length": 480})
    made = {"count": 1_000_000, "as_asked": True}
    reels = {**made, "kind": "minireel", "forms": {"worded": 0.8, "text": 0.2}}
    config.data.sources = (
        ConfigDict({**made, "kind": "minireel_clips", "seconds": (8, 16), "weight": 0.1}),
        ConfigDict({**reels, "seconds": (16, 32, 64), "weight": 0.9}),
    )
    return config
