"""Demo model 4 of 8: the LLM learns to answer from notes, each what one segment contributes to the answer.

Such notes are what the small VLM has learned to make of a segment (demo_ask.py), and what memory tokens
are to hold. Short videos first: in an earlier mixture, questions about notes of 64 to 256 seconds were
still at chance after 400 steps. Ours, see demo_llm.py, from which this goes on.

    python train.py --config=configs/demo_note.py --workdir=build/demo/note
"""

from ml_collections import ConfigDict

from configs import demo_llm


def get_config() -> ConfigDict:
    config = demo_llm.get_config()
    config.init.checkpoint = "build/demo/llm/model"
    config.init.tokenizer = ""
    config.rates.llm = 2e-3
    config.steps = 600
    config.batch.update({"conversations": 16, "length": 256})
    noted = {"kind": "minireel_noted", "count": 1_000_000, "forms": {"worded": 0.8, "text": 0.2}}
    config.data.sources = (ConfigDict({**noted, "seconds": (8, 16, 32)}),)
    return config
