"""Demo model 5 of 8: as demo_note.py, from which this goes on, but of all lengths.

Videos of 128 segments with all their notes; the short questions stay in the mixture, as what is left out is
forgotten.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note
from configs.demo_note import NOTED


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.rates.llm = 1.5e-3
    config.steps = 200
    config.batch.update({"conversations": 3, "length": 1200})
    short = [ConfigDict({**source, "weight": 0.25 * source["weight"]}) for source in config.data.sources]
    long = {**NOTED, "seconds": (512, 4096), "forms": {"worded": 0.8, "text": 0.2}}
    config.data.sources = (
        *short,
        ConfigDict({**long, "kinds": ("needle", "when"), "budget": 340, "weight": 0.15}),
        ConfigDict({**long, "kinds": ("count",), "budget": 340, "weight": 0.25}),
        ConfigDict({**long, "kinds": ("order",), "budget": 340, "weight": 0.2}),
        ConfigDict({**long, "kinds": ("global",), "budget": 700, "weight": 0.15}),
    )
    return config
