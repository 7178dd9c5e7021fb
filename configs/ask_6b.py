"""Inference of Tempo-6B on an hour of video, for `tempo plan`.

1024 frames (an hour at one frame in 3.5 s: 128 segments of 8) of 256x512, where 16:9 ends up in the reference
code (docs/reference/tempo.md#frame-sizes); a budget of 8192 visual tokens; 64 new tokens; bfloat16 weights.

    tempo plan --config=configs/ask_6b.py --topology=v6e:1x1
    tempo plan --config=configs/ask_6b.py --topology=v5e:2x4 --set mesh.fsdp=1 --set mesh.tensor=8

The numbers it gave are in docs/results/plans.md. An argument names another preset: configs/ask_6b.py:tiny.
"""

from ml_collections import ConfigDict


def get_config(model: str = "tempo-6b") -> ConfigDict:
    config = ConfigDict()
    config.model = model  # a name in models.presets.PRESETS
    config.dtype = "bfloat16"  # of the weights; or int8, fp8
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # -1: all remaining devices
    config.ask = ConfigDict()
    config.ask.frames = 1024
    config.ask.size = (256, 512)  # (height, width) at the model
    config.ask.budget = 8192  # visual tokens
    config.ask.new_tokens = 64
    config.ask.answers = 1  # decoded together, each with a cache of its own
    config.ask.chunk_segments = 8  # per device that segments spread over, as tempo_jax.load has it
    return config
