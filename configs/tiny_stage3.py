"""Tiny stage 3: long-context fine-tuning, in minutes on a laptop's CPU.

The same stage as tempo_6b_stage3.py, which says where the recipe comes from, on the demo's architecture
(64x64 pixels, 16 memory tokens a segment, a vocabulary of 1024). It starts
from stage 2's build/tiny/stage2/model.
It shows that everything works from data to an answer and what a run looks like. It does not make a model
that answers: for that see configs/demo_*.py.

Trainable parameters and peak learning rates (small models take larger ones than the 6B):

    vision     2e-4     the vision tower
    compressor 5e-4     the compressor's decoder
    memory     5e-4     memory tokens
    projector  5e-4     compressor to LLM
    llm        5e-4     the global LLM

Data: 64 s of minireel, asked with choices.
With a prepared set of your own (docs/guides/data.md), name it after a colon; its texts get more room:

    python train.py --config=configs/tiny_stage3.py --workdir=build/tiny/stage3
    python train.py --config=configs/tiny_stage3.py:build/my_data --workdir=build/tiny/stage3
"""

from ml_collections import ConfigDict

from configs import tiny_stage0


def get_config(prepared: str = "") -> ConfigDict:
    config = tiny_stage0.get_config()
    config.init.tokenizer = ""  # the checkpoint's own
    config.init.checkpoint = "build/tiny/stage2/model"
    config.learning_rate.update(
        {"vision": 2e-4, "compressor": 5e-4, "memory": 5e-4, "projector": 5e-4, "llm": 5e-4}
    )
    config.steps = 40
    config.batch.update({"segments": 32, "sequences": 2, "sequence_length": 448})
    tiny_stage0.set_source(config, {"kind": "minireel", "seconds": 64}, prepared)
    return config
