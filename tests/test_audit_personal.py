"""Personal data in an audit: found, graded by whether real rows have them, masked everywhere, and nothing fetched."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from typing import Any

import pytest
from audited import audited, checked, embed, examples, real_data, sentences, written

from gendistill.audit import audit_rows, masking
from gendistill.config import Config
from gendistill.data import RealData
from gendistill.errors import ConfigError
from gendistill.examples import Example

CLEAN = examples(10, 77)


@pytest.fixture(scope="module")
def real() -> RealData:
    return real_data()


@pytest.fixture
def with_pipeline() -> None:
    pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is an extra")


SECRETS = (
    "jane.doe@example-mail.com",
    "(415) 555-2671",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "192.0.2.44",
)


@pytest.mark.usefixtures("with_pipeline")
def test_personal_data_are_found_graded_and_masked_everywhere(real: RealData) -> None:
    shared = Example((f"Write to {SECRETS[0]} soon.",), 0)
    known = replace(real, train=[*real.train, shared, Example((f"Call {SECRETS[1].replace(') ', '-')[1:]} now",), 1)])
    rows = [*CLEAN, *sentences([f"Please note {secret} for later, it is ours." for secret in SECRETS])]
    rows.append(Example((shared.text + " Or else.",), 0))
    audit = audited(rows, "memorisation", "personal_data", "labels", real=known)
    check = audit.checks[1]
    assert check.status == "failed"
    levels = {one.row: one.level for one in check.findings if not one.message.startswith("a name")}
    # The first two stand in real rows too, the phone number in other signs
    assert levels == {31: "error", 32: "error", 33: "warning", 34: "warning", 35: "warning", 36: "error"}
    kinds = ("email_address", "phone_number", "credit_card", "iban_code", "ip_address")
    assert [check.figures[kind] for kind in kinds] == [2, 1, 1, 1, 1]
    shown = json.dumps([audit.to_json(), audit.to_sarif()])
    assert not any(secret in shown for secret in SECRETS) and "jane" not in shown
    assert "j***@e***.com" in check.findings[0].message and "j***@e***.com" in check.findings[0].excerpt
    assert "[CREDIT_CARD]" in shown
    copies = next(one for one in audit.checks[0].findings if one.row == 36)
    assert copies.real == "Write to j***@e***.com soon."


@pytest.mark.usefixtures("with_pipeline")
def test_ids_and_the_words_of_a_trigger_are_masked_too() -> None:
    """An id may be an address, and a name that stands in many texts a trigger."""
    rows = examples(20, 78)
    for row in [row for row, one in enumerate(rows) if one.label == 0][:6]:
        rows[row] = Example((f"Write to jane.doe@example-mail.com. {rows[row].text}",), 2)
    given = [{**row, "id": "john.roe@example-mail.com"} for row in written(rows)]
    config = Config(audit={"checks": ["poisoning"]})
    (check,) = audit_rows(given, real_data(train=300), config, embed=embed).checks
    assert check.figures["mislabelled_triggers"] >= 1
    shown = json.dumps(check, default=vars)
    assert "j***@e***.com" in shown and not re.search("jane|doe|roe", shown)


@pytest.mark.usefixtures("with_pipeline")
def test_names_are_notes_unless_a_few_real_rows_have_them(real: RealData) -> None:
    spacy = pytest.importorskip("spacy")
    if not any(name.startswith("en_") for name in spacy.util.get_installed_models()):
        pytest.skip("no English spaCy pipeline is installed")
    said = "Yesterday {} told reporters in London that the company would hire again."
    private = sentences([said.format("Margaret Whitfield")])
    public = sentences([f"{said.format('Barack Obama')} Part {number}." for number in range(6)])
    known = replace(real, train=[*real.train, *private, *public])
    rows = sentences(
        [f"{said.format(name)} So they say." for name in ("Margaret Whitfield", "Barack Obama", "Tobias Lindgren")]
    )
    check = checked(rows, "personal_data", real=known)
    assert {one.row: one.level for one in check.findings} == {1: "warning", 2: "note", 3: "note"}
    assert check.status == "noted" and "en_core_web" in check.summary
    assert not re.search("Whitfield|Obama|Lindgren", json.dumps(check.findings, default=vars))


@pytest.mark.usefixtures("with_pipeline")
def test_nothing_but_loopback_is_ever_connected_to(monkeypatch: pytest.MonkeyPatch, real: RealData) -> None:
    masking._engine.cache_clear()  # as in a process that has loaded nothing yet
    asked: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: connect(None, address))
    check = checked(
        sentences(["Write to jane.doe@example-mail.co.uk at https://example.org/x soon."]), "personal_data", real=real
    )
    assert check.figures["email_address"] == 1 and check.figures["url"] == 1 and not asked


def test_without_presidio_the_check_is_skipped_and_addresses_are_masked_all_the_same(
    monkeypatch: pytest.MonkeyPatch, real: RealData
) -> None:
    monkeypatch.setattr("gendistill.audit.masking.presidio_installed", lambda: False)
    monkeypatch.setattr("gendistill.audit.personal_data.presidio_installed", lambda: False)
    secret = Example(("Write to jane.doe@example-mail.com or 0415 555 2671 soon.",), 0)
    audit = audited([secret], "personal_data", "memorisation", real=replace(real, train=[*real.train, secret]))
    assert audit.checks[0].status == "skipped" and 'pip install "gendistill[audit]"' in audit.checks[0].summary
    audit = audited([secret, *CLEAN], "memorisation", real=replace(real, train=[*real.train, secret]))
    assert audit.checks[0].findings[0].excerpt == "Write to j***@e***.com or [NUMBER] soon."


@pytest.mark.usefixtures("with_pipeline")
def test_a_pipeline_that_is_not_there_is_a_wrong_setting_and_no_download(real: RealData) -> None:
    with pytest.raises(ConfigError, match=r"audit\.spacy: 'en_no_such' is no installed spaCy pipeline"):
        audited(CLEAN, "personal_data", real=real, spacy="en_no_such")


@pytest.mark.usefixtures("with_pipeline")
def test_without_a_pipeline_patterns_are_looked_for_and_the_check_says_so(
    monkeypatch: pytest.MonkeyPatch, real: RealData
) -> None:
    spacy = pytest.importorskip("spacy")
    monkeypatch.setattr(spacy.util, "get_installed_models", lambda: ["en_broken", "de_other"])
    masking._engine.cache_clear()
    rows = sentences(["Barack Obama wrote from jane.doe@example-mail.com today."])
    check = checked(rows, "personal_data", real=real)
    masking._engine.cache_clear()
    assert check.figures["person"] == 0 and check.figures["email_address"] == 1
    assert "patterns only: names need an English spaCy pipeline" in check.summary
