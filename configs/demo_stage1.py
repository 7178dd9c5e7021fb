"""Demo model 5 of 6, Tempo's stages 1 and 2 in one: everything learns, from questions about short videos.

What is published is that there are such stages (facts/tempo.md §4.1); data, rates and lengths are ours.

    python train.py --config=configs/demo_stage1.py --workdir=build/demo/stage1
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.checkpoint = "build/demo/stage0/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 2e-4, "svlm": 1e-3, "memory": 2e-3, "projector": 1e-3, "llm": 1e-3})
    config.steps = 1200
    config.batch.update({"pool": 32, "row_length": 168, "conversations": 2, "length": 560})
    reels = {"kind": "minireel", "count": 1_000_000, "forms": {"choice": 0.5, "text": 0.5}}
    config.data.sources = (
        ConfigDict({"kind": "minireel_clips", "count": 1_000_000, "seconds": (8, 16), "weight": 0.2}),
        ConfigDict({**reels, "seconds": (16, 32, 64), "turns": 1, "weight": 0.8}),
    )
    return config
