"""Demo model 3 of 8: the LLM learns to read and to answer, from videos told in words.

The published Tempo starts from Qwen3-4B; the demo model's LLM starts from nothing, so it gets this stage
(ours). Where Tempo's memory tokens will be, it reads captions, so that only vision is left to learn after.

    python train.py --config=configs/demo_llm.py --workdir=build/demo/llm
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "llm"
    config.rates.update({"vision": 0.0, "svlm": 0.0, "llm": 3e-3})
    config.steps = 900
    config.batch.update({"pool": 1, "row_length": 1, "conversations": 7, "length": 580})
    told = {"kind": "minireel_told", "count": 1_000_000}
    config.data.sources = (
        ConfigDict({**told, "seconds": (8, 16, 32), "weight": 1.0}),
        ConfigDict({**told, "seconds": (64, 96), "weight": 1.0}),
    )
    return config
