"""What goes to the hub: nothing unless asked, no real rows, and whole when it does go, to a hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from gendistill.config import Config
from gendistill.data.card import CardInfo, dataset_card
from gendistill.data.export import json_line

FINDING = {
    "row": 1,
    "id": "a",
    "level": "error",
    "message": "copied",
    "excerpt": "Shares rose.",
    "real": "Shares rose.",
}
ROW = {"text": "Shares rose.", "label": 0, "label_name": "business", "id": "a"}


class Hub(BaseHTTPRequestHandler):
    """The few calls of the hub that a commit takes; a card whose licence is "wrong" is refused, as the hub does."""

    seen: list[tuple[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.seen.append((self.path, body))
        if self.path == "/api/validate-yaml":
            wrong = "license: wrong" in json.loads(body)["content"]
            errors = [{"message": '"license" must be one of [...]'}] if wrong else []
            return self._answer(400 if wrong else 200, {"errors": errors, "warnings": []})
        if self.path == "/api/repos/create":
            return self._answer(200, {"url": f"http://{self.headers['Host']}/datasets/me/set", "id": "me/set"})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        return self._answer(
            200, {"commitUrl": f"http://{self.headers['Host']}/datasets/me/set/commit/1", "commitOid": "1" * 40}
        )

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mine"
    (folder / "features").mkdir(parents=True)
    real = tmp_path / "secret" / "patients.jsonl"
    real.parent.mkdir()
    real.write_text(json_line(ROW))
    config = Config(dataset=str(real), out=folder, generator={"server": {"base_urls": ["http://10.1.2.3:8000/v1"]}})
    values = json.loads(config.model_dump_json())
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    (folder / "distilled.jsonl").write_text(json_line(ROW))
    (folder / "README.md").write_text(dataset_card(CardInfo(name="mine", label_names=["business"], rows=[ROW])))
    (folder / "run.db").write_text("real rows")
    (folder / "report.html").write_text("real rows")
    return folder


def push(run: Path, *options: str, server: ThreadingHTTPServer | None = None, repo: str = "me/set") -> Any:
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    env["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port if server else 9}"
    command = [sys.executable, "-m", "gendistill", "push", str(run), repo, *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def committed() -> dict[str, str]:
    path, body = Hub.seen[-1]
    assert path == "/api/datasets/me/set/commit/main"
    lines = [json.loads(line) for line in body.splitlines()]
    return {line["value"]["path"]: base64.b64decode(line["value"]["content"]).decode() for line in lines[1:]}


def test_nothing_is_sent_unless_asked(run: Path, hub: ThreadingHTTPServer) -> None:
    shown = push(run, server=hub)
    assert shown.returncode == 0 and "nothing was sent" in shown.stdout
    assert "README.md" in shown.stdout and "stays here: run.db, features, report.html" in shown.stdout
    assert Hub.seen == []


def test_the_set_goes_in_one_commit_and_real_rows_do_not(run: Path, hub: ThreadingHTTPServer) -> None:
    sent = push(run, "--send", server=hub)
    assert sent.returncode == 0, sent.stderr
    assert json.loads(Hub.seen[0][1])["visibility"] == "private" and json.loads(Hub.seen[0][1])["type"] == "dataset"
    files = committed()
    assert files.keys() == {"README.md", "distilled.jsonl", "config.yaml"}
    assert files["distilled.jsonl"] == json_line(ROW) and files["README.md"] == (run / "README.md").read_text()
    assert "secret" not in files["config.yaml"] and "10.1.2.3" not in files["config.yaml"]
    assert yaml.safe_load(files["config.yaml"])["data"]["dataset"] == "patients.jsonl"
    Config(**yaml.safe_load(files["config.yaml"]))  # still a configuration


def test_public_is_asked_for(run: Path, hub: ThreadingHTTPServer) -> None:
    assert push(run, "--send", "--public", server=hub).returncode == 0
    assert json.loads(Hub.seen[0][1])["visibility"] == "public"


def test_a_failed_audit_stops_it(run: Path, hub: ThreadingHTTPServer) -> None:
    check = {
        "name": "memorisation",
        "title": "Copies of real rows",
        "status": "failed",
        "summary": "",
        "findings": [FINDING],
    }
    (run / "audit.json").write_text(json.dumps({"version": 1, "checks": [check]}))
    stopped = push(run, "--send", server=hub)
    assert stopped.returncode == 6 and "Copies of real rows" in stopped.stderr and Hub.seen == []
    assert push(run, "--send", "--despite-audit", server=hub).returncode == 0
    sent = json.loads(committed()["audit.json"])
    assert sent["checks"][0]["findings"] == [{**FINDING, "real": None}]


def test_wrong_inputs_are_one_line(run: Path, tmp_path: Path, hub: ThreadingHTTPServer) -> None:
    wrong = {
        "no name of a repository": push(run, repo="/a//b", server=hub),
        "name the owner too": push(run, repo="set", server=hub),
        "not a run directory": push(tmp_path, server=hub),
        "not sent": push(run, "--send"),  # nothing answers there
    }
    (run / "README.md").write_text((run / "README.md").read_text().replace("license: other", "license: wrong"))
    wrong["refuses the card"] = push(run, "--send", server=hub)
    (run / "distilled.jsonl").unlink()
    wrong["has not finished"] = push(run, server=hub)
    for message, result in wrong.items():
        assert result.returncode in (3, 6), result
        assert message in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
