"""Demo model, phase 3 of 7: the LLM is trained on evidence transcripts of short videos.

The paper's Tempo starts from Qwen3-4B; the demo model's LLM is trained from scratch, in this phase and the
next, which are additions of this project. Evidence is what memory tokens have to hold: repeated, and more
often where a segment is relevant. Most samples are questions about a handful of segments: a sequence packs a
dozen of them, and what took 3000 steps of whole videos to learn by half takes 300
(docs/results/demo-model.md).

    python train.py --config=configs/demo_note.py --workdir=build/demo/note
"""

from ml_collections import ConfigDict

from configs import demo_see

EVIDENCE = {"kind": "minireel_evidence_text", "count": 1_000_000, "max_repeats": 16, "max_turns": 3}


def get_config() -> ConfigDict:
    config = demo_see.get_config()
    config.task = "llm"
    config.learning_rate.update({"vision": 0.0, "compressor": 0.0, "llm": 2.5e-3})
    config.steps = 2000
    config.batch.update({"segments": 1, "compressor_length": 1, "sequences": 9, "sequence_length": 400})
    forms = {"text": 0.5, "worded": 0.5}
    short = {**EVIDENCE, "forms": forms, "max_repeats": 4, "seconds": (64, 128, 512, 4096, 4096)}
    some = {**EVIDENCE, "forms": forms, "seconds": (64, 512, 4096), "budget": 140, "num_distractors": 16}
    whole = {**EVIDENCE, "forms": forms, "seconds": (16, 32, 64), "budget": 110}
    config.data.sources = (
        # Order is learned from neighbors first, without distractors; it is the hardest kind.
        ConfigDict({**short, "kinds": ("order",), "budget": 36, "num_distractors": 0, "weight": 0.33}),
        ConfigDict({**short, "kinds": ("order",), "budget": 60, "num_distractors": 4, "weight": 0.24}),
        ConfigDict({**short, "kinds": ("count",), "budget": 32, "num_distractors": 5, "weight": 0.08}),
        ConfigDict(
            {**short, "kinds": ("needle", "when"), "budget": 32, "num_distractors": 5, "weight": 0.07}
        ),
        ConfigDict({**some, "kinds": ("order", "needle", "count", "when"), "weight": 0.23}),
        ConfigDict({**whole, "kinds": ("global",), "weight": 0.05}),
    )
    return config
