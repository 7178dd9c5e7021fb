"""Demo model 5 of 8: as demo_note.py, from which this goes on, but of all lengths.

Videos of 128 segments with all their notes, and some with few of the segments that tell nothing; the short
questions stay in the mixture, as what is left out is forgotten.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note
from configs.demo_note import NOTED


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.rates.llm = 1.5e-3
    config.steps = 300
    config.batch.update({"conversations": 3, "length": 1400})
    short = [ConfigDict({**source, "weight": 0.4 * source["weight"]}) for source in config.data.sources]
    long = {**NOTED, "seconds": (512, 4096), "turns": 4, "forms": {"worded": 0.8, "text": 0.2}}
    config.data.sources = (
        *short,
        ConfigDict({**long, "kinds": ("needle", "when", "order", "count"), "budget": 540, "weight": 0.4}),
        ConfigDict({**long, "kinds": ("global",), "budget": 600, "weight": 0.1}),
    )
    return config
