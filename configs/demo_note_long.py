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
    config.steps = 1000
    config.batch.update({"conversations": 4, "length": 1060})
    short = [ConfigDict({**source, "weight": 0.9 * source["weight"]}) for source in config.data.sources[:4]]
    some = {**NOTED, "kinds": ("needle", "when", "order", "count")}
    config.data.sources = (
        *short,
        ConfigDict({**NOTED, "seconds": (16, 32, 64), "budget": 120, "weight": 0.1}),
        ConfigDict({**some, "seconds": (512, 4096), "budget": 110, "spare": 20, "weight": 0.14}),
        ConfigDict({**NOTED, "seconds": (512, 4096), "budget": 300, "weight": 0.16}),
    )
    return config
