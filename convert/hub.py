"""Locates checkpoints: a folder, or a model id of the Hugging Face Hub.

Ids go through huggingface_hub: its cache, its token (HF_TOKEN or `hf auth login`), HF_ENDPOINT and
HF_HUB_OFFLINE count as everywhere. Only weights, configurations, tokenizer and texts are fetched.
"""

import dataclasses
import fnmatch
import os
import re
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/([^/?#]+))?.*"
)
WANTED = (
    "*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "LICENSE*", "README.md", "NOTICE*",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")  # whose errors it may let through
UNWANTED = ("consolidated*", "optimizer*", "original/*", "onnx/*", "runs/*", "trainer_state.json")


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder, and the Hub's id and commit where it came from there."""

    folder: Path
    hub: str | None = None
    commit: str | None = None


def locate(what: str, given: str | os.PathLike) -> Place:
    """The folder of a path or Hub id; TempoError for what is neither. `what`: the source, the base ..."""
    text = os.fspath(given)
    if page := PAGE.fullmatch(text):
        revision = f"@{page[2]}" if page[2] and page[2] != "main" else ""
        raise TempoError(
            f"{what} {text} is a web page: give the model's id, --{what.split()[-1]}={page[1]}{revision}"
        )
    if paths.url(text):  # read from a copy: safetensors are mapped into memory
        folder = paths.path(what, text)
        copy = paths.fetched(folder, lambda name: any(fnmatch.fnmatch(name, one) for one in WANTED))
        if not any(copy.iterdir()):
            raise TempoError(f"{what} {text} holds nothing to convert: give the folder of config.json")
        return Place(copy)
    path = Path(text).expanduser()
    match = ID.fullmatch(text)
    if path.exists() or match is None:
        return Place(path)
    return _fetch(what, match["id"], match["revision"])


def _fetch(what: str, model: str, revision: str | None) -> Place:
    from huggingface_hub import errors, snapshot_download

    name = f"{model}@{revision}" if revision else model
    try:
        folder = snapshot_download(
            model, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except errors.GatedRepoError as error:
        raise TempoError(
            f"the Hub lets only users who asked read {model}: ask for access on its page, then log in "
            "(hf auth login, or HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise TempoError(
            f"{model} on the Hub has no revision {revision!r}: give a branch, tag or commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise TempoError(
            f"{what} {name} is no folder here and no model on the Hub (or one that needs a login: hf auth "
            "login, or HF_TOKEN): check the name"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if _offline() else "the Hub cannot be reached"
        raise TempoError(
            f"{what} {name} is no folder here, it is not in the Hub's cache, and {why}: check the name, or "
            f"fetch it where there is a network (hf download {model})"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise TempoError(f"the Hub refuses {name} (status {status}): try again later") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in HTTP_CLIENTS:
            raise
        raise TempoError(
            f"the Hub cannot be reached for {name} ({type(error).__name__}): try again"
        ) from error
    path = Path(folder)
    return Place(path, model, path.name if path.parent.name == "snapshots" else None)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
