"""Tiny stage 0: modality alignment, in minutes on a laptop's CPU.

The same stage as tempo_6b_stage0.py, which says where the recipe comes from, on the demo's architecture
(64x64 pixels, 16 memory tokens a segment, a vocabulary of 1024). Both backbones are
random here, since none is published at this size; the 6B starts from Qwen3-VL-2B and Qwen3-4B.
It shows that everything works from data to an answer and what a run looks like. It does not make a model
that answers: for that see configs/demo_*.py.

Trainable parameters and peak learning rates (small models take larger ones than the 6B):

    vision     frozen   the vision tower
    compressor frozen   the compressor's decoder
    memory     1e-3     memory tokens
    projector  1e-3     compressor to LLM
    llm        frozen   the global LLM

Data: 8 s of minireel, and what it is mostly about.
With a prepared set of your own (docs/guides/data.md), name it after a colon; its texts get more room:

    python train.py --config=configs/tiny_stage0.py --workdir=build/tiny/stage0
    python train.py --config=configs/tiny_stage0.py:build/my_data --workdir=build/tiny/stage0
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config(prepared: str = "") -> ConfigDict:
    config = default()
    config.model = "demo"
    config.init.tokenizer = "minireel"
    config.learning_rate.update({"memory": 1e-3, "projector": 1e-3})
    config.steps = 60
    config.batch.update(
        {"shards": 1, "segments": 8, "compressor_length": 144, "sequences": 4, "sequence_length": 128}
    )
    set_source(
        config, {"kind": "minireel", "seconds": 8, "kinds": ("global",), "forms": {"text": 1.0}}, prepared
    )
    config.data.packing_window = 16
    config.data.threads = 1
    config.dtype = "float32"  # a laptop's CPU has no use for bfloat16
    config.remat = "none"
    config.log_every = 10
    config.checkpoint_every = 50
    return config


def set_source(config: ConfigDict, minireel: dict, prepared: str) -> None:
    """minireel made on the fly, or the prepared data set that was named on the command line."""
    config.data.sources = (ConfigDict({"kind": "prepared", "path": prepared} if prepared else minireel),)
    if prepared:  # words that are not minireel's take several tokens each
        config.batch.compressor_length += 256
        config.batch.sequence_length += 512
