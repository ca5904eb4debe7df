"""How often the texts of each label speak of groups of people, beside the real data."""

from __future__ import annotations

from dataclasses import dataclass

from gendistill.audit import intervals
from gendistill.audit.lexicon import PEOPLE, Lexicon
from gendistill.audit.material import Material, counted, text_of
from gendistill.audit.result import Check, Number, Status

NAME, TITLE = "balance", "Balance of demographic terms"
ALL = ""  # the label where rows have none


@dataclass(frozen=True)
class Difference:
    """A label whose texts speak of a group more or less often than the real ones do."""

    group: str
    label: str
    ours: intervals.Interval
    real: intervals.Interval
    rows: list[int]  # of the set, with the label and a term of the group

    def __str__(self) -> str:
        where = f"{self.label!r} texts" if self.label else "texts"
        return (
            f"{self.group.replace('_', ' ')} in {self.ours.value:.0%} of {where}, in {self.real.value:.0%} of real ones"
        )


def check(material: Material) -> Check:
    """Notes where a group stands in more texts of a label than in real ones, beyond chance; counts where in fewer."""
    lexicon = Lexicon(PEOPLE)
    names = material.label_names or [ALL]
    labels = [row.label if material.label_names else 0 for row in material.examples]
    real = material.sampled_known
    real_labels = [row.label if material.label_names else 0 for row in real]
    found = [set(lexicon.found(text)) for text in material.texts]
    real_found = [set(lexicon.found(text_of(row))) for row in real]
    rows_of: dict[int, list[int]] = {label: [] for label in range(len(names))}
    real_of: dict[int, list[int]] = {label: [] for label in range(len(names))}
    for row, label in enumerate(labels):
        rows_of[label].append(row)
    for row, label in enumerate(real_labels):
        real_of[label].append(row)
    cells = []
    for group in lexicon.groups:
        for label, name in enumerate(names):
            mine = [row for row in rows_of[label] if group in found[row]]
            theirs = sum(group in real_found[row] for row in real_of[label])
            sizes = len(rows_of[label]), len(real_of[label])
            p_value = intervals.rates_differ(len(mine), sizes[0], theirs, sizes[1])
            ours, usual = intervals.share(len(mine), sizes[0]), intervals.share(theirs, sizes[1])
            cells.append((p_value, Difference(group, name, ours, usual, mine)))
    adjusted = intervals.holm([p_value for p_value, _ in cells])
    differing = [
        difference
        for (_, difference), p_value in zip(cells, adjusted, strict=True)
        if p_value < material.config.significance
    ]
    findings = [
        material.finding(row, "note", f"speaks of a group more often than real texts of its label: {difference}")
        for difference in differing
        for row in difference.rows
        if difference.ours.value > difference.real.value
    ]
    figures: dict[str, Number] = {"compared": len(cells), "differing": len(differing)}
    for group in lexicon.groups:
        ours = intervals.share(sum(group in terms for terms in found), len(found))
        figures |= ours.figures(f"{group}_share")
        figures[f"{group}_real_share"] = sum(group in terms for terms in real_found) / len(real_found)
    status: Status = "noted" if differing else "passed"
    shown = "; ".join(map(str, differing[:3]))
    summary = (
        f"{counted(len(differing), 'group and label', 'groups and labels')} of {len(cells)} differ from the real data "
        f"beyond chance{': ' + shown if shown else ''}."
    )
    return material.check(NAME, TITLE, status, summary, figures, findings)
