"""Evaluation on long-video question answering: LVBench, Video-MME, MLVU, LongVideoBench and minireel.

    benchmarks.py    one table row per benchmark: files, prompt, parser, groups, score
    parsing.py       replies to option letters, as the reference evaluator parses them
    annotations.py   files of a downloaded benchmark to validated questions; questions.py: as TFDS builders
    settings.py      the grid of settings under which a run asks every question
    runner.py        the run: videos are decoded and encoded once, a JSON line per answer, resumable
    question_runner.py decode_workers.py    the order of a run, decoding in worker processes, the model
    scoring.py report.py figure.py    accuracy, intervals, tables and the figure, from those lines alone

`python eval.py --config=configs/eval_lvbench.py --workdir=DIR` is the command (docs/guides/evaluation.md).
"""
