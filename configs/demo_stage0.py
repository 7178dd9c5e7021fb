"""Demo model 5 of 7, Tempo's stage 0: alignment. Memory tokens learn to say what a segment contributes.

Published is that memory tokens and projector learn here, from captions (facts/tempo.md §4.1). Ours: notes in
place of captions, that the LLM is not run (tempo_jax/tasks/align.py), that the small VLM learns with
them, its Yes and No too, and a higher rate (docs/training.md §5 compares it with learning through the LLM).
The compressor is asked in the words of inference.

    python train.py --config=configs/demo_stage0.py --workdir=build/demo/stage0
"""

from ml_collections import ConfigDict

from configs import demo_see

# What is asked about (texts.QUESTIONS) -> how often: more where a segment is easily mistaken.
ASKED = {
    "place": 1.6, "turn": 1.7, "count": 1.2, "when": 1.5, "when_turn": 0.7, "letter": 1.6, "shape": 0.8,
    "most_place": 0.5, "most_shape": 1.8,
}  # fmt: skip


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "align"
    config.init.compressor = "build/demo/ask/model"
    config.init.llm = "build/demo/note_long/model"
    config.init.tokenizer = ""
    config.rates.update({"vision": 3e-4, "svlm": 1e-3, "memory": 1e-2, "projector": 5e-3})
    config.steps = 2400
    config.batch.update({"pool": 24, "row_length": 172, "conversations": 8, "length": 200})
    evidence = {"kind": "minireel_evidence", "count": 1_000_000, "seconds": (64, 512, 512, 4096)}
    config.data.sources = (ConfigDict({**evidence, "asked": ASKED}),)
    return config
