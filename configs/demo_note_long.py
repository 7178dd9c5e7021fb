"""Demo model 5 of 8: as demo_note.py, from which this goes on, but of all lengths, and with more of order.

What a model reads at one length it need not read at another: after demo_note.py alone, notes of videos twice
as long were misread. Order takes two steps, from an event to its neighbour, and has lessons of its own.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.rates.llm = 1.5e-3
    config.steps = 650
    config.batch.update({"conversations": 4, "length": 1120})
    noted = {"kind": "minireel_noted", "count": 1_000_000, "forms": {"worded": 0.8, "text": 0.2}}
    orders = {"kind": "minireel_orders", "count": 1_000_000}
    config.data.sources = (
        ConfigDict({**orders, "seconds": (16, 32, 64, 128), "weight": 0.4}),
        ConfigDict({**noted, "seconds": (16, 32, 64, 128, 256, 512, 4096), "weight": 0.6}),
    )
    return config
