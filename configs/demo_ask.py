"""Demo model, phase 2 of 7: question-conditioned training of the compressor VLM on segments of minireel.

The prompts are those of the compressor. Targets are Yes or No, whether a segment is relevant to a question
(the relevance prior that Tempo takes from Qwen3-VL, docs/reference/tempo.md#relevance), and the segment's
evidence. An addition of this project, see demo_see.py.

    python train.py --config=configs/demo_ask.py --workdir=build/demo/ask
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.init.checkpoint = "build/demo/see/model"
    config.learning_rate.update({"vision": 5e-4, "compressor": 1.5e-3})
    config.steps = 2200
    config.batch.update({"segments": 20, "compressor_length": 272, "sequences": 1})
    config.data.sources = (
        ConfigDict(
            {"kind": "minireel_segments", "count": 1_000_000, "seconds": (64, 512, 4096), "questions": 4}
        ),
    )
    return config
