"""Demo model, phase 4 of 7: evidence transcripts of all lengths, starting from demo_note.py.

Videos of 128 segments with all their evidence, or with that of 16 or 50 segments without events. Short
questions stay in the mixture, since the model forgets what is left out.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note
from configs.demo_note import EVIDENCE


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.learning_rate.llm = 2e-3
    config.steps = 1800
    config.batch.update({"sequences": 3, "sequence_length": 1200})
    forms = {"text": 0.4, "worded": 0.6}
    short = {**EVIDENCE, "forms": forms, "max_repeats": 4, "seconds": (64, 128, 512, 4096, 4096)}
    some = {**EVIDENCE, "forms": forms, "seconds": (64, 512, 4096), "budget": 140, "num_distractors": 16}
    more = {**EVIDENCE, "forms": forms, "seconds": (512, 4096), "budget": 240, "num_distractors": 50}
    long = {**EVIDENCE, "forms": {"worded": 0.7, "text": 0.3}, "seconds": (512, 4096)}
    config.data.sources = (
        ConfigDict({**short, "kinds": ("order",), "budget": 60, "num_distractors": 4, "weight": 0.08}),
        ConfigDict(
            {
                **short,
                "kinds": ("count", "needle", "when"),
                "budget": 32,
                "num_distractors": 5,
                "weight": 0.05,
            }
        ),
        ConfigDict({**some, "kinds": ("order", "count"), "weight": 0.15}),
        ConfigDict({**more, "kinds": ("order", "count"), "weight": 0.16}),
        ConfigDict({**long, "kinds": ("order",), "budget": 340, "weight": 0.24}),
        ConfigDict({**long, "kinds": ("count",), "budget": 340, "weight": 0.13}),
        ConfigDict({**long, "kinds": ("needle", "when"), "budget": 340, "weight": 0.1}),
        ConfigDict({**long, "kinds": ("global",), "budget": 700, "weight": 0.09}),
    )
    return config
