"""Evaluation on long-video question answering: LVBench, Video-MME, MLVU, LongVideoBench and minireel.

    benchmarks.py    one table row per benchmark: files, prompt, parser, groups, score
    parsing.py       from what a model said to a letter, as the published evaluator does it
    annotations.py   a downloaded folder's files to checked questions; questions.py: as TFDS builders
    settings.py      the grid of settings that a run asks every question under
    runner.py        videos decoded and seen once, a JSON line per answer, resumable
    scoring.py report.py figure.py    accuracy, intervals, tables and the picture, from those lines alone

`python eval.py --config=configs/eval_lvbench.py --workdir=DIR` is the command (docs/guides/evaluation.md).
"""
