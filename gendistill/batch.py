"""Batch files: a run's requests as OpenAI-batch lines, and the answers back into its journal.

``vllm run-batch`` and hosted batch services take and give the same lines: ``custom_id``, ``method``, ``url``, ``body``;
and back ``custom_id``, ``response`` or ``error``. https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendistill.atomic import atomic_write
from gendistill.config import Config
from gendistill.data.export import json_line
from gendistill.errors import DataError, RunError
from gendistill.folder_store import storage_errors
from gendistill.generators.base import Reply, Request
from gendistill.generators.wire import BadAnswer, Options, body_of, path_of, replies_in, told
from gendistill.store import Store

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of a file, by the hosted services' rules
JOURNAL_EVERY = 1000  # replies of a file that are journalled together


@dataclass
class Exported:
    files: list[Path] = field(default_factory=list)
    requests: int = 0


@dataclass
class Imported:
    """What became of the lines."""

    replies: int = 0  # new ones
    known: int = 0  # of requests that had a reply already
    unknown: list[str] = field(default_factory=list)  # ids that the run did not ask for
    unreadable: list[str] = field(default_factory=list)  # where, and why
    failed: Counter[str] = field(default_factory=Counter)  # reason -> requests left unanswered
    missing: int = 0  # requests that have no reply yet


def export_requests(
    run: Path,
    out: Path,
    *,
    model: str | None = None,
    as_chat: bool = False,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
) -> Exported:
    """Write the requests of a run that have no reply yet; of more than a file may hold, ``out`` gets numbered names.

    :param run: a run directory.
    :param model: as the service names it; the run's own if absent.
    :param as_chat: prompts as the one message of a user, for services that take chats alone.
    :raises RunError: no run there, or one that is at work.
    """
    exported = Exported()
    with _opened(run) as (store, config):
        options = Options(structured=config.generator.structured, as_chat=as_chat)
        name = model or config.generator.model
        part: list[bytes] = []
        size = 0

        def write(file: Path) -> None:
            atomic_write(file, b"".join(part))
            exported.files.append(file)
            exported.requests += len(part)

        def numbered() -> Path:
            return out.with_stem(f"{out.stem}-{len(exported.files) + 1:03d}")

        for line in _lines(store, name, options):
            if part and (len(part) >= most_requests or size + len(line) > most_bytes):
                write(numbered())
                part, size = [], 0
            part.append(line)
            size += len(line)
        if part:
            write(numbered() if exported.files else out)
    return exported


def import_replies(run: Path, files: Sequence[Path]) -> Imported:
    """Journal the answers in output and error files, in any order; the run goes on from there.

    A request whose line holds an error stays unanswered, for the next export; one that the service refused for what it
    says (a 400) is a failed candidate. Lines that were torn off, come twice, or belong to no request are counted.

    :raises RunError: no run there, or one that is at work.
    :raises DataError: a file that cannot be read.
    """
    found = Imported()
    with _opened(run) as (store, _config):
        waiting: dict[str, Reply] = {}
        tried: dict[str, str] = {}  # id -> why it has no answer, so far
        for file in files:
            for number, line in _read(file):
                place = f"{file}:{number}"
                try:
                    value = json.loads(line)
                    id = value["custom_id"]
                    if not isinstance(id, str):
                        raise TypeError
                except (ValueError, KeyError, TypeError, RecursionError):
                    found.unreadable.append(f"{place}: no batch line; torn off?")
                    continue
                request = store.asked(id)
                if request is None:
                    found.unknown.append(id)
                    continue
                if id in waiting or store.answered(id):
                    found.known += 1
                    continue
                outcome = _outcome(value, request)
                if isinstance(outcome, str):
                    tried[id] = outcome
                    continue
                waiting[id] = outcome
                if len(waiting) >= JOURNAL_EVERY:
                    found.replies += store.add_replies(waiting.values())
                    waiting.clear()
        found.replies += store.add_replies(waiting.values())
        found.failed.update(reason for id, reason in tried.items() if not store.answered(id))
        found.missing = sum(1 for _ in store.unanswered())
    return found


def _outcome(value: dict[str, Any], request: Request) -> Reply | str:
    """The reply of a line, or why there is none."""
    error, response = value.get("error"), value.get("response")
    if error or not isinstance(response, dict):
        return told({"error": error} if error else value.get("response")) or "no response"
    status, body = response.get("status_code", 200), response.get("body")
    if status == 200:
        try:
            return replies_in(body, [request])[0]
        except BadAnswer as bad:
            return str(bad)
    reason = f"{status} {told(body)}".strip()
    return Reply(request.id, "", "error", error=reason) if status in (400, 413, 422) else reason


def _lines(store: Store, model: str, options: Options) -> Iterator[bytes]:
    for request in store.unanswered():
        line = {
            "custom_id": request.id,
            "method": "POST",
            "url": "/v1" + path_of(request, options),
            "body": body_of(request, model, options),
        }
        yield json_line(line).encode("utf-8", "replace")


def _read(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                line = raw.decode("utf-8", "replace").strip("\ufeff \r\n\t\0")
                if line:
                    yield number, line
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path") from error


@contextmanager
def _opened(run: Path) -> Iterator[tuple[Store, Config]]:
    """A run that is there, locked for us, with its configuration."""
    file = run / "run.db"
    if not file.is_file():
        raise RunError(f"{run}: no run here; give the directory that gendistill generate was told as --out")
    with storage_errors(run), closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as db:
        row = db.execute("SELECT value FROM meta WHERE key = 'config'").fetchone()
    if row is None:
        raise RunError(f"{run}: nothing was planned here yet; run gendistill generate first")
    config = Config(**json.loads(row[0]))
    with Store(run, config, "always") as store:
        yield store, config
