"""One file per experiment; its docstring is the lab record. `python train.py --config=configs/X.py`."""
