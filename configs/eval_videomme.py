"""Video-MME (no subtitles) with Tempo-6B: 2700 questions about 900 videos of 1010 s on average.

Settings of the published evaluation (see eval_lvbench.py). Published with them: 67.8 %
at a budget of 4096 (3.6 tokens per frame), 67.7 % at 8192 (4.3); of the long videos alone 57.8 % and 57.0 %.
Not run here yet.

    python eval.py --config=configs/eval_videomme.py --workdir=build/videomme --config.data.path=Video-MME
"""

from ml_collections import ConfigDict

from configs import eval_lvbench


def get_config() -> ConfigDict:
    config = eval_lvbench.get_config()
    config.benchmark = "videomme"
    return config
