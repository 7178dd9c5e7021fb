"""Demo model, phase 5 of 7, Tempo's stage 0: alignment of memory tokens with segment evidence.

In the paper memory tokens and projector are trained here, on captions (docs/reference/tempo.md#training).
Choices of this project: evidence in place of captions, an LLM that is not run (tempo_jax/tasks/align.py), a
compressor that is trained too, including its Yes and No, and a higher learning rate
(docs/results/demo-model.md compares it with training through the LLM). The compressor gets its inference
prompt.

    python train.py --config=configs/demo_stage0.py --workdir=build/demo/stage0
"""

from ml_collections import ConfigDict

from configs import demo_see

# Weights of templates (questions.TYPES): higher where segments are easily confused.
QUESTION_WEIGHTS = {
    "place": 1.6, "turn": 1.7, "count": 1.2, "when": 1.5, "when_turn": 0.7, "letter": 1.6, "shape": 0.8,
    "most_place": 0.5, "most_shape": 1.8,
}  # fmt: skip


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "align"
    config.init.compressor = "build/demo/ask/model"
    config.init.llm = "build/demo/note_long/model"
    config.init.tokenizer = ""
    config.learning_rate.update({"vision": 3e-4, "compressor": 1e-3, "memory": 1e-2, "projector": 5e-3})
    config.steps = 2400
    config.batch.update({"segments": 24, "compressor_length": 172, "sequences": 8, "sequence_length": 200})
    evidence = {"kind": "minireel_segment_evidence", "count": 1_000_000, "seconds": (64, 512, 512, 4096)}
    config.data.sources = (ConfigDict({**evidence, "question_weights": QUESTION_WEIGHTS}),)
    return config
