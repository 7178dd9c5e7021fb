"""Inference of XComp on an hour of video, for `tempo plan`.

1024 frames of 448x448, of which QC-Comp keeps 512 (8192 visual tokens) after two rounds of scoring, as
published (docs/reference/xcomp.md#selection); 64 new tokens; bfloat16 weights.

    tempo plan --config=configs/ask_xcomp.py --topology=v6e:1x1
    tempo plan --config=configs/ask_xcomp.py --topology=v5e:2x2 --set ask.frames=4096 --set ask.budget=32768

An argument names another preset: configs/ask_xcomp.py:xcomp-demo.
"""

from ml_collections import ConfigDict


def get_config(model: str = "xcomp-2b") -> ConfigDict:
    config = ConfigDict()
    config.model = model  # a name in models.presets.PRESETS
    config.dtype = "bfloat16"  # of the weights; or int8, fp8
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # -1: all remaining devices
    config.ask = ConfigDict()
    config.ask.frames = 1024  # sampled
    config.ask.budget = 8192  # visual tokens, 16 a frame
    config.ask.repeats = 2  # rounds of scoring
    config.ask.new_tokens = 64
    config.ask.answers = 1  # decoded together, each with a cache of its own
    config.ask.chunk_segments = 8  # per device that clips spread over, two of Tempo's segments a clip
    return config
