"""Demo model, phase 6 of 7, Tempo's stages 1 and 2: the LLM is trained on memory tokens of short videos.

The paper names these stages (docs/reference/tempo.md#training); data, learning rates and lengths are choices
of this project, and so is that only projector and LLM are trained: the compressor is good enough, and its Yes
and No get no training signal here. Evidence transcripts of long videos, as long as prompts with memory
tokens, stay in the mixture.

    python train.py --config=configs/demo_stage1.py --workdir=build/demo/stage1
"""

from ml_collections import ConfigDict

from configs import demo_see
from configs.demo_note import EVIDENCE


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.checkpoint = "build/demo/stage0/model"
    config.init.tokenizer = ""
    config.learning_rate.update({"vision": 0.0, "compressor": 0.0, "projector": 1e-3, "llm": 1e-3})
    config.steps = 600
    config.batch.update({"segments": 40, "compressor_length": 172, "sequences": 2, "sequence_length": 1600})
    reels = {
        "kind": "minireel",
        "count": 1_000_000,
        "forms": {"worded": 0.9, "text": 0.1},
        "inference_prompt": True,
    }
    some = {**EVIDENCE, "kinds": ("needle", "when", "order", "count")}
    config.data.sources = (
        ConfigDict({**reels, "seconds": (16, 32, 64), "weight": 0.6}),
        ConfigDict({**EVIDENCE, "seconds": (512, 4096), "budget": 512, "weight": 0.2}),
        ConfigDict({**some, "seconds": (512, 4096), "budget": 110, "num_distractors": 12, "weight": 0.2}),
    )
    return config
