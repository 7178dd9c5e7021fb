"""Loggers of metrics, answers and images of a run: one small interface and a table of implementations.

Only process 0 opens them. Those other than TensorBoard must be installed and are configured by their own
environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, ...).
"""

import importlib.util
import io
import json
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tempo_jax.errors import TempoError


class Logger(Protocol):
    """The interface of a logger."""

    def numbers(self, step: int, values: dict[str, float]) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def picture(self, step: int, name: str, rgb_HWC: np.ndarray) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """TensorBoard events, written synchronously: tensorboardX's queue would wait forever on a full disk."""

    def __init__(self, workdir: Path, step: int, config: dict):
        """Hides what an interrupted run wrote after `step`."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._writer = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._event(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """One point of each."""
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        self._event(step=step, summary=Summary(value=points))

    def text(self, step: int, name: str, text: str) -> None:
        """Logs Markdown."""
        from tensorboardX import summary

        self._event(step=step, summary=summary.text(name, text))

    def picture(self, step: int, name: str, rgb_HWC: np.ndarray) -> None:
        """Logs an image as PNG."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        png = io.BytesIO()
        Image.fromarray(rgb_HWC).save(png, "PNG")
        height, width, _ = rgb_HWC.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
        self._event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        self._writer.close()

    def _event(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), **fields))
        self._writer.flush()


class WandB:
    """A run of Weights & Biases, resumed with the training run."""

    def __init__(self, workdir: Path, step: int, config: dict):
        import wandb

        self._wandb = wandb
        identity = _service_run_id(workdir, "wandb", lambda: secrets.token_hex(4))
        self._run = wandb.init(
            project="tempo_jax",
            name=workdir.name,
            id=identity,
            resume="allow",
            dir=str(workdir),
            config=config,
        )

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        import html

        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def picture(self, step: int, name: str, rgb_HWC: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(rgb_HWC)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, resumed with the training run."""

    def __init__(self, workdir: Path, step: int, config: dict):
        import mlflow

        self._client = mlflow.MlflowClient()
        experiment = mlflow.set_experiment("tempo_jax").experiment_id

        def new() -> str:
            return self._client.create_run(experiment, run_name=workdir.name).info.run_id

        self._run = _service_run_id(workdir, "mlflow", new)
        self._client.log_dict(self._run, config, "config.json")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(x), now, step) for name, x in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def text(self, step: int, name: str, text: str) -> None:
        self._client.log_text(self._run, text, f"{name}/{step}.md")

    def picture(self, step: int, name: str, rgb_HWC: np.ndarray) -> None:
        self._client.log_image(self._run, rgb_HWC, f"{name}/{step}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run)


class LoggerEntry(NamedTuple):
    module: str  # importable module
    package: str  # its package on PyPI
    make: Callable[[Path, int, dict], Logger]


LOGGERS = {
    "tensorboard": LoggerEntry("tensorboardX", "tensorboardX", TensorBoard),
    "wandb": LoggerEntry("wandb", "wandb", WandB),
    "mlflow": LoggerEntry("mlflow", "mlflow", MLflow),
}


def check(names: Iterable[str]) -> None:
    """Raises TempoError for a logger that is not installed."""
    for name in names:
        entry = LOGGERS[name]
        if importlib.util.find_spec(entry.module) is None:
            raise TempoError(
                f"config.loggers has {name}, which is not installed: pip install {entry.package}, or drop it"
            )


def open_loggers(names: Iterable[str], workdir: Path, step: int, config: dict) -> list[Logger]:
    """Opens the loggers of a run that resumes after `step`."""
    check(names)
    return [LOGGERS[name].make(workdir, step, config) for name in names]


def _service_run_id(workdir: Path, name: str, new: Callable[[], str]) -> str:
    """Returns the id of the run at a service, stored in workdir/loggers.json."""
    path = workdir / "loggers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in known:
        known[name] = new()
        path.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return known[name]
