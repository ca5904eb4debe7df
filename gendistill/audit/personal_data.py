"""Personal data in the set: what it is, where, and whether the same stands in the real data."""

from __future__ import annotations

from collections import Counter

from gendistill.audit.masking import EMAIL, INSTALL, PERSON, masked, presidio_installed
from gendistill.audit.material import Material, counted, plain
from gendistill.audit.result import Check, Finding, Level, Number, Status
from gendistill.audit.words import rows_with
from gendistill.folding import fold

NAME, TITLE = "personal_data", "Personal data"
_WORDS = {
    PERSON: ("a name", "names"),
    EMAIL: ("an e-mail address", "e-mail addresses"),
    "PHONE_NUMBER": ("a phone number", "phone numbers"),
    "CREDIT_CARD": ("a card number", "card numbers"),
    "IBAN_CODE": ("an IBAN", "IBANs"),
    "IP_ADDRESS": ("an IP address", "IP addresses"),
    "URL": ("a web address", "web addresses"),
    "US_SSN": ("a social security number", "social security numbers"),
}
_PUBLIC = (PERSON, "URL")  # stand in texts for everyone to read, as news do
AROUND = 80  # characters shown on each side


def check(material: Material) -> Check:
    """A note for a name, a warning for an address or a number; one level more if the real data has the same string,
    but for names that many real rows have."""
    if not presidio_installed():
        return Check(NAME, TITLE, "skipped", f"presidio-analyzer is not installed: {INSTALL}")
    seen = [
        (row, span, material.texts[row][span.start : span.end])
        for row in range(len(material.rows))
        for span in material.masker.spans(material.texts[row])
        if span.kind in _WORDS
    ]
    # The same string counts once a row
    first = {(row, span.kind, value): span for row, span, value in reversed(seen)}
    found = [(*key, first[key]) for key in sorted(first, key=lambda key: (key[0], first[key].start))]
    in_real = rows_with([value for _, _, value, _ in found], material.known_words)
    findings, shared = [], 0
    for (row, kind, value, span), real_rows in zip(found, in_real, strict=True):
        shared += real_rows > 0
        level = _level(kind, value, real_rows, material.config.public_rows)
        message = f"{_WORDS[kind][0]} ({plain(masked(value, kind))})"
        if real_rows:
            message += f", which {counted(real_rows, 'real row')} {'has' if real_rows == 1 else 'have'} too"
        text = material.texts[row]
        start, end = max(span.start - AROUND, 0), span.end + AROUND
        # Masked with the text's own spans: a part of it alone might be read otherwise
        excerpt = plain(_masked_part(material, text, start, end))
        findings.append(Finding(material.lines[row], material.id_of(row), level, message, excerpt))
    kinds = Counter(kind for _, kind, _, _ in found)
    rows = len({row for row, *_ in found})
    levels = Counter(finding.level for finding in findings)
    figures: dict[str, Number] = {"rows_with_any": rows, "also_in_real_rows": shared}
    figures |= {kind.lower(): kinds[kind] for kind in _WORDS}
    figures |= {f"{level}s": levels[level] for level in ("error", "warning", "note")}
    status: Status = "failed" if levels["error"] else "noted" if findings else "passed"
    listed = ", ".join(f"{kinds[kind]} {_WORDS[kind][kinds[kind] > 1].removeprefix('a ').removeprefix('an ')}"
                       for kind in _WORDS if kinds[kind])  # fmt: skip
    summary = f"{listed or 'nothing personal was found'}" + (
        f" in {rows} of {counted(len(material.rows), 'row')}; {shared} of them stand in the real data too"
        if found
        else f" in {counted(len(material.rows), 'row')}"
    )
    names = material.masker.names
    how = f"names by {names}" if names else "patterns only: names need an English spaCy pipeline, and none is installed"
    summary += f" ({how})"
    return material.check(NAME, TITLE, status, summary + ".", figures, findings)


def _level(kind: str, value: str, real_rows: int, public_rows: int) -> Level:
    if kind not in _PUBLIC:
        return "error" if real_rows else "warning"
    whole = kind != PERSON or len(fold(value)) > 1  # a first or last name alone says little
    return "warning" if whole and 0 < real_rows < public_rows else "note"


def _masked_part(material: Material, text: str, start: int, end: int) -> str:
    parts, at = [], start
    for span in material.masker.spans(text):
        if span.end > start and span.start < end:
            parts += [text[at : span.start], masked(text[span.start : span.end], span.kind)]
            at = span.end
    return "".join([*parts, text[at:end]])[: 2 * AROUND + 40]
