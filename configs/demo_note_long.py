"""Demo model 5 of 8: as demo_note.py, from which this goes on, but longer, and over several events.

Needles were right in 99 % after demo_note.py; what takes several events together (order, count) and the
comparison of times (when) was not, and comes in longer videos only.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.steps = 900
    noted = {"kind": "minireel_noted", "count": 1_000_000, "forms": {"worded": 0.7, "text": 0.3}}
    config.data.sources = (ConfigDict({**noted, "seconds": (16, 32, 64)}),)
    return config
