"""LongVideoBench (val, video only) with Tempo-6B: 1337 questions about videos of up to an hour.

Without subtitles. A reply without a letter is scored as a random option, as published; the report says how
many there were and what is right without them.

Settings of the published evaluation (see eval_lvbench.py). Published with them: 64.5 % at a
budget of 4096 (2.8 tokens per frame), 65.1 % at 8192 (3.1). Not run here yet.

    python eval.py --config=configs/eval_longvideobench.py --workdir=build/lvb --config.data.path=DIR
"""

from ml_collections import ConfigDict

from configs import eval_lvbench


def get_config() -> ConfigDict:
    config = eval_lvbench.get_config()
    config.benchmark = "longvideobench"
    return config
