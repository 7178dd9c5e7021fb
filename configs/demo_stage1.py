"""Demo model 7 of 9, Tempo's stage 1: the small VLM learns to write for the LLM, from short videos.

What is published is that there is such a stage (facts/tempo.md §4.1); data, rates and lengths are ours. Ours
too that the LLM does not learn yet: it can read notes, and what the compressor writes comes to mean the same.
The rate of the small VLM is low: its answers of Yes and No are not trained any more and must not be lost.

    python train.py --config=configs/demo_stage1.py --workdir=build/demo/stage1
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.checkpoint = "build/demo/stage0/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 0.0, "svlm": 6e-4, "memory": 2e-3, "projector": 1e-3})
    config.steps = 600
    config.batch.update({"pool": 32, "row_length": 172, "conversations": 2, "length": 480})
    made = {"count": 1_000_000, "as_asked": True}
    reels = {**made, "kind": "minireel", "forms": {"worded": 0.8, "text": 0.2}}
    config.data.sources = (
        ConfigDict({**made, "kind": "minireel_clips", "seconds": (8, 16), "weight": 0.05}),
        ConfigDict({**reels, "seconds": (16, 32, 64), "weight": 0.95}),
    )
    return config
