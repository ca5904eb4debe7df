"""The run directory: the only module that writes there.

``run.db`` (SQLite, write-ahead log) is the journal and the truth for progress: every reply is in it before anything
else is done with it. Files (features, results) appear whole or not at all. A lock keeps a second process out; the
operating system drops it with the process, so a killed run leaves none behind.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from gendistill.config import Config, Section
from gendistill.errors import RunError
from gendistill.examples import Candidate, Example, content_hash
from gendistill.folder_store import FolderStore, storage_errors
from gendistill.generators.base import Reply, Request
from gendistill.journal import IN_ORDER, ORDER, SCHEMA_VERSION, SHARDS, Journal

Resume = Literal["never", "always", "if-possible"]

# Keys that a resumed run may change: they touch neither what is asked for nor what is chosen.
FREE_KEYS = (
    "out",
    "card.",
    "audit.",
    "engine.address",
    "engine.kind",
    "engine.scorers",
    "engine.shard",
    "engine.storage",
    "engine.writers",
    "evaluate.",
    "generator.batch_size",
    "generator.kind",
    "generator.server",
    "generator.vllm",
    "selection.label",
)

SYNC_EVERY_S = 1.0
OWN = {".lock", "features"}  # what a run killed in its first moments may have left

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, round INTEGER NOT NULL, label INTEGER NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
    request_id TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, error TEXT);
CREATE TABLE IF NOT EXISTS candidates (
    request_id TEXT NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL, round INTEGER NOT NULL,
    label INTEGER NOT NULL, fields TEXT NOT NULL, filter TEXT, reason TEXT, scores TEXT NOT NULL,
    PRIMARY KEY (request_id, position));
CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, loss REAL, result TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS choices (
    round INTEGER NOT NULL, rank INTEGER NOT NULL, id TEXT NOT NULL, PRIMARY KEY (round, rank));
CREATE TABLE IF NOT EXISTS evaluations (
    method TEXT NOT NULL, seed INTEGER NOT NULL, key TEXT NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (method, seed, key));
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """A request of a round, with the class it is for and what its prompt shows."""

    request: Request
    label: int
    position: int  # within the round
    template: str
    parents: tuple[str, ...]  # ids of the examples shown


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with the verdict of the filters and its scores."""

    candidate: Candidate
    filter: str | None  # the filter that turned it away; None: it is in the pool
    reason: str | None
    scores: dict[str, float]


class Store(FolderStore):
    """An open run directory. Use as a context manager.

    :param folder: the run directory; made if absent.
    :param config: what this run is.
    :param resume: "never" refuses a directory that holds a run, "always" one that holds none, "if-possible" takes both.
    :raises RunError: locked by another process, another configuration, not writable, or not a run directory.
    """

    def __init__(self, folder: Path, config: Config, resume: Resume = "if-possible") -> None:
        super().__init__(folder)
        self._synced = float("-inf")  # when replies were last waited for until the disk had them
        existed = (folder / "run.db").exists()
        if resume == "always" and not existed:
            raise RunError(f"{folder}: no run to resume here; check --out, or use --resume if-possible")
        if resume == "never" and existed:
            raise RunError(f"{folder}: a run is already here; choose another --out, or resume it with --resume always")
        if folder.is_dir() and not existed and any(p.name not in OWN for p in folder.iterdir()):
            raise RunError(f"{folder}: not empty and not a run directory; choose another --out")
        try:
            (folder / "features").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{folder}: another process is working in this run directory; wait for it or stop it"
            ) from None
        except OSError as error:
            raise RunError(f"{folder}: cannot write here ({error.strerror}); choose another --out") from error
        try:
            with storage_errors(folder):
                self._db = sqlite3.connect(folder / "run.db", isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
                self._match(config)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._lock.release()

    def _match(self, config: Config) -> None:
        values = json.loads(config.model_dump_json())
        present = self.meta("config")
        if present is None:
            with self._transaction():
                self._set_meta("schema", SCHEMA_VERSION)
                self._set_meta("config", values)
        else:
            if self.meta("schema") != SCHEMA_VERSION:
                raise RunError(f"{self.folder}: written by another version of gendistill; choose another --out")
            # A key that the older version which wrote the run did not have had no other value than the default.
            present = with_defaults(present)
            differences = [key for key in differing_keys(present, values) if not key.startswith(FREE_KEYS)]
            asked = self._db.execute("SELECT COUNT(*) FROM requests").fetchone()[0]
            if differences and not asked:
                # Nothing was paid for yet, as after a mistyped column or model: begin anew.
                with self._transaction():
                    self._db.execute("DELETE FROM meta")
                    self._set_meta("schema", SCHEMA_VERSION)
                    self._set_meta("config", values)
                for name in ("features", "teacher"):
                    self.drop_folder(name)
                (self.folder / "features").mkdir()
            elif differences:
                told = "; ".join(
                    f"{key} was {value_at(present, key)!r}, is {value_at(values, key)!r}" for key in differences[:3]
                )
                more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
                raise RunError(
                    f"{self.folder}: holds a run with another configuration ({told}{more}); choose another --out"
                )
        self.write("config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    # -- meta -----------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> Any:
        return Journal(self._db).meta(key)

    def _set_meta(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value, ensure_ascii=False)))

    def remember(self, key: str, value: Any) -> None:
        """Keep a value of the run; on a resumed run the value must be the same.

        :raises RunError: it is not: the input has changed since the run began.
        """
        present = self.meta(key)
        if present is None:
            with self._transaction():
                self._set_meta(key, value)
        elif present != value:
            raise RunError(f"{self.folder}: the {key} has changed since this run began; choose another --out")

    # -- generation -----------------------------------------------------------------------------------------------

    def plan(self, round: int, planned: Sequence[Planned]) -> None:
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?)",
                [
                    (p.request.id, round, p.label, p.position, json.dumps(_request_body(p.request), ensure_ascii=False))
                    for p in planned
                ],
            )

    def missing(self, planned: Iterable[Planned]) -> list[Request]:
        """The requests that no reply has been journalled for, in order."""
        answered = {row[0] for row in self._db.execute("SELECT request_id FROM replies")}
        return [p.request for p in planned if p.request.id not in answered]

    def add_replies(self, replies: Iterable[Reply]) -> int:
        """Journal replies. A second one to a request is ignored; gives how many were new.

        On return no kill of the process can lose them. The disk has them within ``SYNC_EVERY_S`` of asking for them: to
        wait for it each time would leave others unjournalled meanwhile.
        """
        now = time.monotonic()
        wait = now - self._synced >= SYNC_EVERY_S
        self._synced = now if wait else self._synced
        self._db.execute(f"PRAGMA synchronous={'FULL' if wait else 'NORMAL'}")
        try:
            with self._transaction():
                before = self._db.total_changes
                self._db.executemany(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)", [_row(reply) for reply in replies]
                )
                return self._db.total_changes - before
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    def unanswered(self) -> Iterator[Request]:
        """Every request planned so far that no reply has been journalled for, in order."""
        rows = self._db.execute(
            "SELECT id, body FROM requests WHERE id NOT IN (SELECT request_id FROM replies) ORDER BY round, position"
        )
        for id, body in rows:
            yield _request(id, json.loads(body))

    def asked(self, id: str) -> Request | None:
        """The request of that id, or None."""
        row = self._db.execute("SELECT body FROM requests WHERE id = ?", (id,)).fetchone()
        return None if row is None else _request(id, json.loads(row[0]))

    def answered(self, id: str) -> bool:
        return self._db.execute("SELECT 1 FROM replies WHERE request_id = ?", (id,)).fetchone() is not None

    def add_usage(self, usage: dict[str, float]) -> None:
        """Add what was asked of servers to what earlier processes asked."""
        before = self.meta("usage") or {}
        with self._transaction():
            self._set_meta("usage", {key: before.get(key, 0) + value for key, value in usage.items()})

    def replies(self, planned: Iterable[Planned]) -> Iterator[tuple[Planned, Reply]]:
        """Planned requests with their replies, in the order planned whatever order they came in."""
        return _replies(self._db, planned)

    def reader(self) -> JournalReader:
        """Replies, for a thread of its own."""
        return JournalReader(self.folder / "run.db")

    def note_shards(self, totals: dict[str, int]) -> None:
        """What was counted where the shards of the run lie, of which the journal holds a part only."""
        with self._transaction():
            self._set_meta(SHARDS, totals)

    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens over all replies."""
        return Journal(self._db).tokens()

    # -- candidates, rounds, evaluations --------------------------------------------------------------------------

    def add_candidates(self, judged: Sequence[Judged]) -> None:
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        j.candidate.request_id,
                        j.candidate.position,
                        j.candidate.id,
                        j.candidate.round,
                        j.candidate.example.label,
                        json.dumps(j.candidate.example.fields, ensure_ascii=False),
                        j.filter,
                        j.reason,
                        json.dumps(j.scores),
                    )
                    for j in judged
                ],
            )

    def verdicts(self) -> list[tuple[Example, str | None]]:
        """Every candidate with the filter that turned it away, or None, in the order they were asked for."""
        rows = self._db.execute(f"SELECT c.fields, c.label, c.filter {IN_ORDER} {ORDER}")
        return [(Example(tuple(json.loads(fields)), label), filter) for fields, label, filter in rows]

    def pool(self) -> list[Example]:
        """The candidates that passed every filter, in the order they were asked for."""
        return [example for example, filter in self.verdicts() if filter is None]

    def add_round(self, round: int, loss: float | None, chosen: Sequence[str], result: dict[str, Any]) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)", (round, loss, json.dumps(result, ensure_ascii=False))
            )
            self._db.execute("DELETE FROM choices WHERE round = ?", (round,))
            self._db.executemany("INSERT INTO choices VALUES (?, ?, ?)", [(round, i, c) for i, c in enumerate(chosen)])

    def rounds(self) -> list[tuple[int, float | None, dict[str, Any]]]:
        return Journal(self._db).rounds()

    def evaluation(self, method: str, seed: int, key: str) -> dict[str, Any] | None:
        row = self._db.execute(
            "SELECT result FROM evaluations WHERE method = ? AND seed = ? AND key = ?", (method, seed, key)
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def add_evaluation(self, method: str, seed: int, key: str, result: dict[str, Any]) -> None:
        with storage_errors(self.folder):
            self._db.execute(
                "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?)", (method, seed, key, json.dumps(result))
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with storage_errors(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


class JournalReader:
    """Reads the journal beside the process's own connection; to be used and closed in one thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA query_only=ON")

    def replies(self, planned: Iterable[Planned]) -> Iterator[tuple[Planned, Reply]]:
        """As ``Store.replies``."""
        return _replies(self._db, planned)

    def close(self) -> None:
        self._db.close()


def _replies(db: sqlite3.Connection, planned: Iterable[Planned]) -> Iterator[tuple[Planned, Reply]]:
    for p in planned:
        row = db.execute("SELECT * FROM replies WHERE request_id = ?", (p.request.id,)).fetchone()
        if row is not None:
            yield p, Reply(*row)


def differing_keys(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two nested dictionaries differ."""
    keys: list[str] = []
    for key in [*a, *(key for key in b if key not in a)]:
        left, right = a.get(key), b.get(key)
        # label_descriptions and weights are values, not sections
        if isinstance(left, dict) and isinstance(right, dict) and not prefix:
            keys += differing_keys(left, right, f"{key}.")
        elif left != right:
            keys.append(prefix + key)
    return keys


def identity(config: Config, data: str) -> str:
    """Of a run: a fingerprint of the real data and of all settings that a resumed run may not change."""
    leaves: dict[str, Any] = {}
    for key, value in json.loads(config.model_dump_json()).items():
        section = key in type(config).model_fields and isinstance(getattr(config, key), Section)
        leaves |= {f"{key}.{name}": inner for name, inner in value.items()} if section else {key: value}
    return content_hash(data, {key: value for key, value in leaves.items() if not key.startswith(FREE_KEYS)})


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """A written configuration with the defaults of today's keys where it has none; its own keys are all kept."""
    filled = json.loads(Config().model_dump_json())
    for key, value in values.items():
        default = filled.get(key)
        filled[key] = {**default, **value} if isinstance(default, dict) and isinstance(value, dict) else value
    return filled


def value_at(values: dict[str, Any], dotted: str) -> Any:
    """The value under a name as ``differing_keys`` gives it."""
    section, _, key = dotted.partition(".")
    return values.get(section, {}).get(key) if key else values.get(section)


def _request_body(request: Request) -> dict[str, Any]:
    return {field.name: getattr(request, field.name) for field in fields(Request) if field.name != "id"}


def _request(id: str, body: dict[str, Any]) -> Request:
    messages = body["messages"]
    return Request(
        **body
        | {
            "id": id,
            "messages": None if messages is None else tuple((role, content) for role, content in messages),
            "stop": tuple(body["stop"]),
        }
    )


def _row(reply: Reply) -> tuple[Any, ...]:
    """As it is journalled; text that is no Unicode (half of a pair) is mended, for SQLite takes none."""
    return tuple(
        value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in astuple(reply)
    )


def fingerprint(examples: Iterable[Example]) -> str:
    """Identity of a list of examples, order included."""
    return content_hash([example.id for example in examples])
