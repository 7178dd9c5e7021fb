"""`tempo doctor`: what is installed, where the work would run, what is missing for which extra."""

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line

# Distributions the package cannot do without, and those of the extras (pyproject.toml; a test compares).
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
    "test": (
        *("chex", "httpx2", "hypothesis", "jinja2", "openai", "opencv-python-headless", "psutil"),
        *("pytest", "pytest-xdist", "ruff", "schemathesis", "torch"),
    ),
}
# Environment variable -> where it is when it is not set; None: nothing is kept.
CACHES = {
    "JAX_COMPILATION_CACHE_DIR": None,
    "HF_HOME": "~/.cache/huggingface",
    "TMPDIR": "/tmp",
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what is installed, which devices there are, what is missing",
        description="Print versions, devices, cache folders, and what is missing for which extra.",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Prints the findings; TempoError where the package itself cannot run."""
    found = findings()
    if args.json:
        command_line.utf8_stdout()
        print(json.dumps(found, ensure_ascii=False, indent=1), flush=True)
    else:
        print("\n".join(_lines(found)), flush=True)
    if missing := [name for name, version in found["packages"].items() if version is None]:
        raise TempoError(f"{', '.join(missing)} is missing: pip install tempo_jax.")
    if found["unsuited"]:
        wanted = " ".join(f"'{name}{specifier}'" for name, (_, specifier) in found["unsuited"].items())
        raise TempoError(
            f"Some packages are of versions that do not work with this one: pip install {wanted}"
        )
    return 0


def findings() -> dict[str, Any]:
    """Everything, as plain values."""
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

    found = {}
    try:
        requirements = [Requirement(line) for line in metadata.requires("tempo_jax") or ()]
    except metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:
        installed = version(requirement.name)
        ours = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if ours and installed and not requirement.specifier.contains(installed, prereleases=True):
            found[requirement.name] = (installed, str(requirement.specifier))
    return found


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


def _lines(found: dict[str, Any]) -> list[str]:
    packages = [f"{name} {number or 'MISSING'}" for name, number in found["packages"].items()]
    own = found["tempo_jax"] or "(not installed)"
    lines = [
        f"tempo_jax    {own}, Python {found['python']}, {found['system']}",
        f"devices      {_devices_line(found['devices'])}",
        f"checkpoint   {found['checkpoint']}",
        f"packages     {', '.join(packages)}",
    ]
    for name, (installed, wanted) in found["unsuited"].items():
        lines.append(f"upgrade      {name} {installed}, which is not {wanted}")
    for extra, names in found["extras"].items():
        missing = [name for name, number in names.items() if number is None]
        said = f"missing {', '.join(missing)}: pip install 'tempo_jax[{extra}]'" if missing else "complete"
        lines.append(f"{'[' + extra + ']':<12} {said}")
    for name, folder in found["caches"].items():
        path = None if folder is None else Path(folder).expanduser()
        state = "not set: nothing is kept" if path is None else str(path)
        lines.append(f"{name:<26} {state}{'' if path is None or path.is_dir() else ' (not there yet)'}")
    return lines


def _devices_line(devices: dict[str, Any]) -> str:
    if "error" in devices:
        return f"none usable ({devices['error']})"
    each = devices["bytes"][0]
    memory = f", {each / 2**30:.1f} GiB each" if each else ""
    return f"{devices['count']} x {devices['kind']} ({devices['backend']}){memory}"
