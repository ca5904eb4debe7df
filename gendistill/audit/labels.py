"""Labels by a second teacher: how often it agrees, beside how often it does on held-out real rows."""

from __future__ import annotations

from gendistill.audit import intervals
from gendistill.audit.material import Material, counted
from gendistill.audit.result import Check, Number, Status

NAME, TITLE = "labels", "Labels by a second teacher"


def check(material: Material) -> Check:
    """Warnings where the second teacher is confident of another label; fails if it agrees less often than with held-out
    real rows, beyond chance."""
    if not material.label_names:
        return Check(NAME, TITLE, "skipped", "instructions have no labels to be right about")
    names, (ours, held) = material.label_names, material.opinions
    labels = [row.label for row in material.examples]
    seen = ours.argmax(1)
    right = int((seen == labels).sum())
    held_right = int((held.argmax(1) == [row.label for row in material.held.examples]).sum())
    agreement = intervals.share(right, len(labels))
    usual = intervals.share(held_right, len(held))
    p_value = intervals.rates_differ(right, len(labels), held_right, len(held))
    findings = [
        material.finding(
            row,
            "warning",
            f"labelled {names[labels[row]]!r}, but the second teacher sees {names[seen[row]]!r} "
            f"({ours[row, seen[row]]:.2f})",
        )
        for row in range(len(labels))
        if seen[row] != labels[row] and ours[row, seen[row]] >= material.config.confident
    ]
    figures: dict[str, Number] = {
        **agreement.figures("agreement"),
        **usual.figures("held_out_agreement"),
        "p_value": p_value,
        "confidently_different": len(findings),
    }
    status: Status = "noted" if findings else "passed"
    if p_value < material.config.significance and agreement.value < usual.value:
        status = "failed"
    summary = (
        f"{material.second_teacher} agrees with {agreement} of the labels, and with {usual} of those of held-out real "
        f"rows; it is confident of another label for {counted(len(findings), 'text')}."
    )
    return material.check(NAME, TITLE, status, summary, figures, findings)
