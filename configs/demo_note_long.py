"""Demo model 5 of 8: as demo_note.py, from which this goes on, but of all lengths.

Of the longest videos only a few segments that do not matter are told, so that their times, of four digits,
fit rows as short as those of other videos. Counting, time and order, learned last, have most samples.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note
from configs.demo_note import NOTED

HARD = ("when", "count", "order")


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.rates.llm = 1.5e-3
    config.steps = 1000
    config.batch.update({"conversations": 6, "length": 704})
    config.data.sources = (
        ConfigDict(
            {**NOTED, "seconds": (64, 512, 4096), "kinds": HARD, "budget": 120, "spare": 8, "weight": 0.45}
        ),
        ConfigDict({**NOTED, "seconds": (64, 128), "kinds": HARD, "budget": 200, "weight": 0.25}),
        ConfigDict({**NOTED, "seconds": (64, 128, 256), "budget": 250, "weight": 0.3}),
    )
    return config
