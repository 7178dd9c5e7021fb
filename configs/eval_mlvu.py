"""MLVU (dev) with Tempo-6B: questions of seven tasks about videos of 651 s on average.

The score is the plain mean over tasks.

Settings of the published evaluation (see eval_lvbench.py). Published with them: 75.6 % at a
budget of 4096 (2.8 tokens per frame), 75.2 % at 8192 (3.3). Not run here yet.

    python eval.py --config=configs/eval_mlvu.py --workdir=build/mlvu --config.data.path=MLVU_dev
"""

from ml_collections import ConfigDict

from configs import eval_lvbench


def get_config() -> ConfigDict:
    config = eval_lvbench.get_config()
    config.benchmark = "mlvu"
    return config
