"""Data: builders and pipelines for training, and the minireel world."""
