"""Demo model, phase 7 of 7, Tempo's stage 3: long videos, of up to 128 segments.

As in the paper: no allocation in training, all memory tokens (docs/reference/tempo.md#training). A choice of
this project: only the projector and the LLM are trained, since only they depend on the length.

    python train.py --config=configs/demo_stage3.py --workdir=build/demo/stage3
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.checkpoint = "build/demo/stage1/model"
    config.init.tokenizer = ""
    config.learning_rate.update({"vision": 0.0, "compressor": 0.0, "projector": 5e-4, "llm": 1e-3})
    config.steps = 200
    config.batch.update({"segments": 128, "compressor_length": 196, "sequences": 1, "sequence_length": 2944})
    reels = {
        "kind": "minireel",
        "count": 1_000_000,
        "forms": {"worded": 0.8, "text": 0.2},
        "inference_prompt": True,
    }
    config.data.sources = (ConfigDict({**reels, "seconds": (64, 128, 256, 512, 4096)}),)
    return config
