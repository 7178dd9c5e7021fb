"""x"""

from ml_collections import ConfigDict

from tempo_jax.training.config import default


def get_config(prepared: str = "") -> ConfigDict:
    config = default()
    config.model = "demo"
    config.init.tokenizer = "minireel"
    config.rates.update({"memory": 1e-3, "projector": 1e-3})
    config.steps = 30
    config.batch.update({"shards": 2, "pool": 16, "row_length": 192, "conversations": 4, "length": 192})
    source = {
        "kind": "minireel",
        "seconds": (8, 16),
        "kinds": ("global",),
        "forms": {"text": 1.0},
        "count": 1000,
    }
    config.data.sources = (ConfigDict({"kind": "prepared", "path": prepared} if prepared else source),)
    config.data.window = 16
    config.dtype = "float32"
    config.log_every = 5
    return config
