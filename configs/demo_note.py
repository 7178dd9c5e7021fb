"""Demo model 4 of 8: the LLM learns to answer from notes, each what one segment contributes to the answer.

Such notes are what memory tokens are to hold: said again and again, more often where a segment matters.
Questions in words about a handful of segments first: a row holds a dozen of them, and what took 3000 steps
of whole videos with multiple choice to learn half is learned in 300 (docs/training.md §5). Ours, see
demo_llm.py, from which this goes on.

    python train.py --config=configs/demo_note.py --workdir=build/demo/note
"""

from ml_collections import ConfigDict

from configs import demo_llm

NOTED = {
    "kind": "minireel_noted",
    "count": 1_000_000,
    "forms": {"worded": 0.95, "text": 0.05},
    "slots": 16,
}


def get_config() -> ConfigDict:
    config = demo_llm.get_config()
    config.init.checkpoint = "build/demo/llm/model"
    config.init.tokenizer = ""
    config.optimiser.kind = "muon"
    config.rates.llm = 2e-3
    config.steps = 400
    config.batch.update({"conversations": 9, "length": 400})
    forms = {"text": 0.5, "worded": 0.5}
    short = {**NOTED, "forms": forms, "slots": 4, "turns": 4, "seconds": (64, 128, 512, 4096, 4096)}
    some = {**NOTED, "forms": forms, "turns": 4, "seconds": (64, 512, 4096), "budget": 140, "spare": 16}
    config.data.sources = (
        ConfigDict({**short, "kinds": ("when",), "budget": 24, "spare": 4, "weight": 0.2}),
        # What comes next is learned from neighbours first, with nothing in between.
        ConfigDict({**short, "kinds": ("order",), "budget": 36, "spare": 0, "weight": 0.2}),
        ConfigDict({**short, "kinds": ("count",), "budget": 32, "spare": 5, "weight": 0.1}),
        ConfigDict({**short, "kinds": ("needle",), "budget": 32, "spare": 5, "weight": 0.15}),
        ConfigDict({**some, "kinds": ("order", "needle", "count", "when"), "weight": 0.35}),
    )
    return config
