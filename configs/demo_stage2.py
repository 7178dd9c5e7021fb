"""Demo model 8 of 9, Tempo's stage 2: all but the vision tower learns, from short videos and from notes.

What is published is that there is such a stage (facts/tempo.md §4.1); data, rates and lengths are ours. Notes
in words, of long videos too, stay in the mixture so that the LLM does not forget what short videos lack.

    python train.py --config=configs/demo_stage2.py --workdir=build/demo/stage2
"""

from ml_collections import ConfigDict

from configs import demo_stage1


def get_config() -> ConfigDict:
    config = demo_stage1.get_config()
    config.init.checkpoint = "build/demo/stage1/model"
    config.rates.update({"svlm": 3e-4, "memory": 1e-3, "projector": 1e-3, "llm": 1e-3})
    config.steps = 350
    config.batch.conversations = 3
    made = {"count": 1_000_000, "forms": {"worded": 0.8, "text": 0.2}}
    reels = {**made, "kind": "minireel", "as_asked": True}
    notes = {**made, "kind": "minireel_noted"}
    config.data.sources = (
        ConfigDict({**reels, "seconds": (16, 32, 64), "weight": 0.75}),
        ConfigDict({**notes, "seconds": (64, 128, 256), "weight": 0.15}),
        ConfigDict({**notes, "seconds": (512, 4096), "kinds": ("count", "when"), "spare": 20, "weight": 0.1}),
    )
    return config
