"""Demo model 4 of 8: the LLM learns to answer from notes, each what one segment contributes to the answer.

Such notes are what memory tokens are to hold: said again and again, more often where a segment matters.
Mostly short questions about a handful of segments: a row holds a dozen of them, and what took 3000 steps
of whole videos to learn half is learned in 300 (docs/training.md §5). Ours, see demo_llm.py, from which this
goes on.

    python train.py --config=configs/demo_note.py --workdir=build/demo/note
"""

from ml_collections import ConfigDict

from configs import demo_llm

NOTED = {"kind": "minireel_noted", "count": 1_000_000, "slots": 16, "turns": 3}


def get_config() -> ConfigDict:
    config = demo_llm.get_config()
    config.init.checkpoint = "build/demo/llm/model"
    config.init.tokenizer = ""
    config.optimiser.kind = "muon"
    config.rates.llm = 2e-3
    config.steps = 700
    config.batch.update({"conversations": 9, "length": 400})
    forms = {"text": 0.5, "worded": 0.5}
    short = {**NOTED, "forms": forms, "slots": 4, "seconds": (64, 128, 512, 4096, 4096)}
    some = {**NOTED, "forms": forms, "seconds": (64, 512, 4096), "budget": 140, "spare": 16}
    whole = {**NOTED, "forms": forms, "seconds": (16, 32, 64), "budget": 110}
    config.data.sources = (
        # What comes next is learned from neighbours first, with nothing in between; it takes the most.
        ConfigDict({**short, "kinds": ("order",), "budget": 36, "spare": 0, "weight": 0.33}),
        ConfigDict({**short, "kinds": ("order",), "budget": 60, "spare": 4, "weight": 0.24}),
        ConfigDict({**short, "kinds": ("count",), "budget": 32, "spare": 5, "weight": 0.08}),
        ConfigDict({**short, "kinds": ("needle", "when"), "budget": 32, "spare": 5, "weight": 0.07}),
        ConfigDict({**some, "kinds": ("order", "needle", "count", "when"), "weight": 0.23}),
        ConfigDict({**whole, "kinds": ("global",), "weight": 0.05}),
    )
    return config
