"""Demo model 4 of 7: the LLM learns to answer from notes, each what one segment contributes to the answer.

Such notes are what the small VLM has learned to make of a segment (demo_ask.py), and what memory tokens
are to hold. Ours, see demo_llm.py, from which this goes on.

    python train.py --config=configs/demo_note.py --workdir=build/demo/note
"""

from ml_collections import ConfigDict

from configs import demo_llm


def get_config() -> ConfigDict:
    config = demo_llm.get_config()
    config.init.checkpoint = "build/demo/llm/model"
    config.init.tokenizer = ""
    config.rates.llm = 2e-3
    config.steps = 1000
    noted = {"kind": "minireel_noted", "count": 1_000_000}
    told = {"kind": "minireel_told", "count": 1_000_000}
    config.data.sources = (
        ConfigDict({**told, "seconds": (8, 16, 32), "weight": 0.15}),
        ConfigDict({**noted, "seconds": (16, 32), "weight": 0.35}),
        ConfigDict({**noted, "seconds": (64, 128, 256), "weight": 0.5}),
    )
    return config
