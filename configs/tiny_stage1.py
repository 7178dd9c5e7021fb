"""Tiny stage 1: pre-training, in minutes on a laptop's CPU.

The same stage as tempo_6b_stage1.py, which says where the recipe comes from, on the demo's architecture
(64x64 pixels, 16 memory tokens a segment, a vocabulary of 1024). It starts
from stage 0's build/tiny/stage0/model.
It shows that everything works from data to an answer and what a run looks like. It does not make a model
that answers: for that see configs/demo_*.py.

Trainable parameters and peak learning rates (small models take larger ones than the 6B):

    vision     5e-4     the vision tower
    compressor 1e-3     the compressor's decoder
    memory     1e-3     memory tokens
    projector  1e-3     compressor to LLM
    llm        1e-3     the global LLM

Data: 8 to 16 s of minireel, asked in words.
With a prepared set of your own (docs/guides/data.md), name it after a colon; its texts get more room:

    python train.py --config=configs/tiny_stage1.py --workdir=build/tiny/stage1
    python train.py --config=configs/tiny_stage1.py:build/my_data --workdir=build/tiny/stage1
"""

from ml_collections import ConfigDict

from configs import tiny_stage0


def get_config(prepared: str = "") -> ConfigDict:
    config = tiny_stage0.get_config()
    config.init.tokenizer = ""  # the checkpoint's own
    config.init.checkpoint = "build/tiny/stage0/model"
    config.learning_rate.update(
        {"vision": 5e-4, "compressor": 1e-3, "memory": 1e-3, "projector": 1e-3, "llm": 1e-3}
    )
    config.steps = 100
    config.batch.update({"segments": 16, "sequence_length": 128})
    tiny_stage0.set_source(config, {"kind": "minireel", "seconds": (8, 16), "forms": {"text": 1.0}}, prepared)
    return config
