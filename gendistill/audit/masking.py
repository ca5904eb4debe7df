"""Personal data in texts: where it stands, by presidio-analyzer, and texts with it masked.

Nothing here may touch the network. Left to themselves presidio downloads a spaCy pipeline and tldextract the list of
public suffixes, so both get what they need from what is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gendistill.errors import ConfigError

PERSON = "PERSON"
EMAIL = "EMAIL_ADDRESS"
LEAST_SCORE = 0.4  # of presidio's, that of a phone number without any word for it
WINDOW = 20_000  # characters looked at at once: patterns and pipelines slow down on longer texts
WINDOWS_OVERLAP = 200
INSTALL = 'pip install "gendistill[audit]"'

# What is masked even without presidio: an address, and digits that may be of a phone or a card.
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PEOPLE = ("PERSON", "PER")  # as pipelines call them
_DIGITS = re.compile(r"(?<!\w)\+?\d(?:[ ().-]{0,2}\d){8,30}(?!\w)")


@dataclass(frozen=True, slots=True)
class Span:
    """Where something personal stands in a text, and what it is, as presidio calls it."""

    start: int
    end: int
    kind: str


class Masker:
    """:param engine: presidio's, or None: e-mail addresses and long numbers are masked all the same.
    :param names: what finds names of people, in words; None if nothing does.
    """

    def __init__(self, engine: Any = None, names: str | None = None) -> None:
        self.engine, self.names = engine, names
        self._known: dict[str, list[Span]] = {}

    @classmethod
    def installed(cls, pipeline: str | None = None) -> Masker:
        """With presidio if it is installed, and with names if a spaCy pipeline is.

        :param pipeline: its name or folder; an installed English one if absent.
        :raises ConfigError: there is no such pipeline.
        """
        return cls(*_engine(pipeline)) if presidio_installed() else cls()

    def spans(self, text: str) -> list[Span]:
        """In order, none over another; where two are, what begins first, and then the longer."""
        if text not in self._known:
            self._known[text] = _apart([*self._found(text), *_plain_spans(text)])
        return self._known[text]

    def _found(self, text: str) -> Iterator[Span]:
        if self.engine is None:
            return
        for start in range(0, max(len(text), 1), WINDOW - WINDOWS_OVERLAP):
            part = _SURROGATE.sub("\ufffd", text[start : start + WINDOW])  # no pipeline takes half a character
            for found in self.engine.analyze(part, language="en", score_threshold=LEAST_SCORE):
                yield from _trimmed(text, start + found.start, start + found.end, found.entity_type)

    def mask(self, text: str) -> str:
        parts, at = [], 0
        for span in self.spans(text):
            parts += [text[at : span.start], masked(text[span.start : span.end], span.kind)]
            at = span.end
        return "".join([*parts, text[at:]])


def presidio_installed() -> bool:
    return importlib.util.find_spec("presidio_analyzer") is not None


def masked(value: str, kind: str) -> str:
    """``j***@e***.com`` of an address, ``[PERSON]`` and the like of all else."""
    if kind != EMAIL or "@" not in value:
        return f"[{kind}]"
    local, _, domain = value.partition("@")
    return f"{local[:1]}***@{domain[:1]}***.{domain.rpartition('.')[2]}"


def _plain_spans(text: str) -> Iterator[Span]:
    for pattern, kind in ((_EMAIL, EMAIL), (_DIGITS, "NUMBER")):
        for match in pattern.finditer(text):
            yield Span(match.start(), match.end(), kind)


def _trimmed(text: str, start: int, end: int, kind: str) -> Iterator[Span]:
    """A name without the 's that pipelines take for a part of it, and nothing without a letter or a number."""
    value = text[start:end]
    if kind == PERSON:
        kept = re.sub(r"['\u2019]s?$", "", value.rstrip())
        end = start + len(kept)
    if any(character.isalnum() for character in text[start:end]):
        yield Span(start, end, kind)


def _apart(spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda one: (one.start, -one.end, one.kind == "NUMBER", one.kind)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


@cache
def _engine(pipeline: str | None) -> tuple[Any, str | None]:
    """presidio's engine over an already loaded pipeline, and what finds names."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from tldextract import TLDExtract

    # The list of public suffixes that the package carries; no address to fetch a newer one from, no cache to write
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Email(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text.rpartition("@")[2]).suffix)

    nlp = _loaded(pipeline) if pipeline is not None else _first_installed()
    names = nlp is not None
    nlp = nlp or spacy.blank("en")
    entities = nlp.pipe_labels.get("ner", [])
    loaded: Any = SpacyNlpEngine(
        models=[{"lang_code": "en", "model_name": nlp.meta["name"]}],
        ner_model_configuration=NerModelConfiguration(labels_to_ignore=[one for one in entities if one not in _PEOPLE]),
    )
    loaded.nlp = {"en": nlp}  # it loads, or downloads, what it does not have
    recognizers = [
        Email(),
        # Without a scheme, a missing space after a full stop makes an address of any two words
        known.UrlRecognizer(patterns=[one for one in known.UrlRecognizer.PATTERNS if "https?://" in one.regex]),
        known.IpRecognizer(),
        known.PhoneRecognizer(),
        known.CreditCardRecognizer(),
        known.IbanRecognizer(),
        known.UsSsnRecognizer(),
    ]
    if names:
        recognizers.append(known.SpacyRecognizer(supported_entities=[PERSON]))
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=["en"])
    engine = AnalyzerEngine(registry=registry, nlp_engine=loaded, supported_languages=["en"])
    return engine, None if not names else f"{nlp.meta['lang']}_{nlp.meta['name']} {nlp.meta['version']}"


def _first_installed() -> Any:
    """The first English pipeline by name that can be loaded: of spaCy's own sizes, lg comes before md and sm. None if
    there is none."""
    import spacy

    for name in sorted(spacy.util.get_installed_models()):
        if name.startswith("en_"):
            with contextlib.suppress(ConfigError):
                return _loaded(name)
    return None


def _loaded(name: str) -> Any:
    """:raises ConfigError: there is no such pipeline, or it cannot be loaded."""
    import spacy

    if not spacy.util.is_package(name) and not Path(name).expanduser().is_dir():
        raise ConfigError(f"audit.spacy: {name!r} is no installed spaCy pipeline and no folder of one")
    # Names need the pipeline's own vectors and its ner alone
    unused = ["parser", "tagger", "morphologizer", "lemmatizer", "attribute_ruler", "senter"]
    try:
        return spacy.load(name if spacy.util.is_package(name) else Path(name).expanduser(), exclude=unused)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"audit.spacy: {name!r} cannot be loaded as a spaCy pipeline ({error})") from error
