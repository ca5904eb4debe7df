"""A distilled set to the Hugging Face hub: what would be sent, and the sending."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gendistill.errors import DataError, RunError
from gendistill.finished import AUDIT, RESULTS

FILES = ("README.md", "distilled.jsonl", RESULTS, "privacy.json")  # those that are sent as they are
# What stays where it is: the journal, the features and the report hold real rows, or stand for them.
KEPT_BACK = ("run.db", "features", "report.html", "adapter")
LOCAL = (("data", ("dataset", "test", "label_file", "target")), ("generator", ("model", "template", "adapter")))


@dataclass(frozen=True)
class Outgoing:
    """A file as it would be sent."""

    path: str  # in the repository
    content: bytes


def outgoing(run: Path) -> list[Outgoing]:
    """Everything of a run that is for publishing.

    The configuration goes along without what only this machine has: folders of files, addresses of servers; the audit
    without the real texts that it shows, and not at all of a private run, whose guarantee does not cover it.

    :raises RunError: no finished run is there.
    """
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run}: not a run directory; give the --out of a finished run")
    for name in ("distilled.jsonl", "README.md"):
        if not (run / name).is_file():
            raise RunError(f"{run}: no {name}, so the run has not finished; the same generate command goes on with it")
    files = [Outgoing(name, (run / name).read_bytes()) for name in FILES if (run / name).is_file()]
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    audit = run / AUDIT
    if audit.is_file() and values.get("privacy", {}).get("epsilon") is None:
        files.append(Outgoing(AUDIT, _without_real_texts(audit)))
    return [*files, Outgoing("config.yaml", yaml.safe_dump(_public(values), sort_keys=False).encode())]


def _without_real_texts(audit: Path) -> bytes:
    found = json.loads(audit.read_text(encoding="utf-8"))
    for check in found["checks"]:
        for finding in check["findings"]:
            finding["real"] = None
    return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()


def _public(values: dict[str, Any]) -> dict[str, Any]:
    values = json.loads(json.dumps(values))
    values["out"] = Path(values["out"]).name
    for section, keys in LOCAL:
        for key in keys:
            given = values[section].get(key)
            if given and (Path(given).is_absolute() or Path(given).exists()):
                values[section][key] = Path(given).name
    values["generator"]["server"]["base_urls"] = []
    return values


def failed_checks(run: Path) -> list[str]:
    """Titles of the checks of the run's audit that did not pass; none if it was not audited."""
    file = run / AUDIT
    if not file.is_file():
        return []
    return [
        check["title"]
        for check in json.loads(file.read_text(encoding="utf-8"))["checks"]
        if check["status"] == "failed"
    ]


def push(files: list[Outgoing], repo: str, *, private: bool = True) -> str:
    """Send files to a dataset repository in one commit; it is made if it is not there. Returns its address.

    Who sends is known by ``HF_TOKEN`` or ``hf auth login``. The hub checks the card's head before it takes anything.

    :raises DataError: the hub refuses the card.
    :raises RunError: the hub cannot be reached, or says no.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(library_name="gendistill")
    try:
        address = str(api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True))
        operations = [CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=file.content) for file in files]
        api.create_commit(repo, operations, repo_type="dataset", commit_message="Distilled set")
    except ValueError as error:  # of the validator of cards
        raise DataError(f"{repo}: the hub refuses the card: {error}") from error
    except OfflineModeIsEnabled:
        raise RunError(f"{repo}: HF_HUB_OFFLINE is set; unset it to send anything") from None
    except (LocalTokenNotFoundError, HTTPError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise RunError(f"{repo}: not sent: {said}; log in with 'hf auth login', or check the name") from error
    return address


def check_name(repo: str) -> None:
    """:raises RunError: no name that a repository on the hub may have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise RunError(f"{repo!r} is no name of a repository: {error}") from None
    if "/" not in repo:
        raise RunError(f"{repo!r}: name the owner too, as in someone/{repo}")
