"""Demo model 7 of 8, Tempo's stages 1 and 2 in one: all but the vision tower learns, from short videos.

What is published is that there are such stages (facts/tempo.md §4.1); data, rates and lengths are ours. Notes
in words, of long videos too, stay in the mixture so that the LLM does not forget what short videos lack. The
rate of the small VLM is low: its answers of Yes and No are not trained any more and must not be lost.

    python train.py --config=configs/demo_stage1.py --workdir=build/demo/stage1
"""

from ml_collections import ConfigDict

from configs import demo_see


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "tempo"
    config.init.checkpoint = "build/demo/stage0/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 0.0, "svlm": 3e-4, "memory": 1e-3, "projector": 1e-3, "llm": 1e-3})
    config.steps = 600
    config.batch.update({"pool": 32, "row_length": 180, "conversations": 3, "length": 480})
    made = {"count": 1_000_000, "forms": {"worded": 0.8, "text": 0.2}}
    reels = {**made, "kind": "minireel", "as_asked": True}
    notes = {**made, "kind": "minireel_noted", "slots": 16}
    config.data.sources = (
        ConfigDict({**reels, "seconds": (16, 32, 64), "weight": 0.75}),
        ConfigDict({**notes, "seconds": (64, 128), "budget": 96, "weight": 0.15}),
        ConfigDict(
            {
                **notes,
                "seconds": (512, 4096),
                "kinds": ("count", "when"),
                "budget": 96,
                "spare": 12,
                "weight": 0.1,
            }
        ),
    )
    return config
