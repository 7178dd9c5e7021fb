"""Demo model 5 of 8: as demo_note.py, from which this goes on, but of all lengths.

What a model reads at one length it need not read at another: after more of 8 to 32 s alone, needles in notes
of 64 s were right in 76 % (72 questions). Half of the samples count or tell the time, learned last.

    python train.py --config=configs/demo_note_long.py --workdir=build/demo/note_long
"""

from ml_collections import ConfigDict

from configs import demo_note


def get_config() -> ConfigDict:
    config = demo_note.get_config()
    config.init.checkpoint = "build/demo/note/model"
    config.rates.llm = 1.5e-3
    config.steps = 750
    config.batch.update({"conversations": 4, "length": 1120})
    noted = {
        "kind": "minireel_noted",
        "count": 1_000_000,
        "forms": {"worded": 0.8, "text": 0.2},
        "seconds": (16, 32, 64, 128, 256, 512, 4096),
    }
    config.data.sources = (
        ConfigDict({**noted, "weight": 0.5}),
        ConfigDict({**noted, "kinds": ("count", "when"), "weight": 0.5}),
    )
    return config
