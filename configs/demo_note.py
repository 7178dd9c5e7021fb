"""Demo model 4 of 8: the LLM learns to answer from notes, each what one segment contributes to the answer.

Such notes are what the small VLM has learned to make of a segment (demo_ask.py), and what memory tokens
are to hold: said again and again, more often where a segment matters. Short videos first: in an earlier
mixture, questions about notes of 64 to 256 seconds were still at chance after 400 steps. Ours, see
demo_llm.py, from which this goes on.

    python train.py --config=configs/demo_note.py --workdir=build/demo/note
"""

from ml_collections import ConfigDict

from configs import demo_llm

NOTED = {
    "kind": "minireel_noted",
    "count": 1_000_000,
    "forms": {"worded": 0.85, "text": 0.15},
    "slots": 16,
}


def get_config() -> ConfigDict:
    config = demo_llm.get_config()
    config.init.checkpoint = "build/demo/llm/model"
    config.init.tokenizer = ""
    config.rates.llm = 2e-3
    config.steps = 800
    config.batch.update({"conversations": 12, "length": 352})
    order = {**NOTED, "kinds": ("order",), "seconds": (32, 64, 128, 512)}
    config.data.sources = (
        ConfigDict({**NOTED, "seconds": (8, 16, 32), "budget": 96, "weight": 0.4}),
        ConfigDict({**NOTED, "seconds": (64, 128), "budget": 160, "spare": 10, "weight": 0.2}),
        # What comes next is learned from neighbours first, with nothing in between.
        ConfigDict({**order, "slots": 4, "budget": 48, "spare": 0, "weight": 0.2}),
        ConfigDict({**order, "slots": 8, "budget": 96, "spare": 3, "weight": 0.2}),
    )
    return config
