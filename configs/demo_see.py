"""Demo model, phase 1 of 7: caption pretraining of the compressor VLM on two-frame clips of minireel.

The paper's Tempo starts from Qwen3-VL-2B; the demo model's compressor is trained from scratch, in this phase
and the next, which are additions of this project. A clip is one temporal patch: a quarter of the cost of a
segment.

    python train.py --config=configs/demo_see.py --workdir=build/demo/see
"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config() -> ConfigDict:
    config = default()
    config.task = "compressor"
    config.model = "demo"
    config.init.tokenizer = "minireel"
    config.learning_rate.update({"vision": 2e-3, "compressor": 2e-3})
    config.optimizer.update({"kind": "muon", "b2": 0.99, "weight_decay": 0.01})
    config.steps = 1500
    config.batch.update({"segments": 62, "compressor_length": 46, "sequences": 1, "sequence_length": 1})
    config.data.sources = (
        ConfigDict({"kind": "minireel_clip_captions", "count": 1_000_000, "seconds": (64, 512)}),
    )
    config.data.packing_window = 62
    config.dtype = "float32"  # bfloat16 is slow on CPUs
    config.remat = "none"  # memory is sufficient
    config.checkpoint_every = 400
    config.log_every = 20
    return config
