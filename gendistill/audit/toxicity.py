"""Offensive words, by the word list of better-profanity, beside how often the real data has them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gendistill.audit import intervals
from gendistill.audit.lexicon import Lexicon
from gendistill.audit.masking import INSTALL
from gendistill.audit.material import Material, counted, text_of
from gendistill.audit.result import Check, Number, Status

NAME, TITLE = "toxicity", "Offensive words"
PACKAGE, LIST = "better_profanity", "profanity_wordlist.txt"
# On the list, but with an everyday, medical or newsworthy sense, or names of people and groups
_HARMLESS = """
    aryan breasts cowgirl cowgirls crotch dong doggin dogging drunk enlargement erect erection erotic facial fanny
    fat fondle gae gai ganja gay gays glans god gonad gonads guido hell hemp heroin herpes hitler hiv hoar hoare
    hobag homey hooch hookah hump hymen inbred incest jerk jerked junkie kill kinky klan labia lech len leper
    lesbians lmao loin loins lube lust lusting lusty mams masochist massa maxi menses menstruate menstruation meth
    molest moron muff murder nad naked napalm nappy nazi nazism nimrod ninny nipple nipples nude nudes omg opiate
    opium oral orally organ ovary ovum ovums paddy pantie panties panty pastie pasty pawn pcp pedophile pedophilia
    pee penetrate penetration penile penis perversion phallic playboy pms pollock pot potty prude pubic punky queer
    quicky racy rape raped raping rapist raunch rectal rectum rectus reefer reich revue rum rump ruski sadism sadist
    sandbar screw screwed scrotum scum seaman seamen seduce semen sex sexual slave sleaze sleazy slope snatch sniper
    snuff souse soused sperm spunk steamy stoned strip stroke stupid suck sucked sucking tampon tawdry teat teats
    testes testicle testis threesome throating thrust thug tinkle titi toke toots tramp transsexual trashy tush ugly
    undies unwed urinal urine uterus uzi vagina valium viagra virgin vixen vodka vomit voyeur vulgar vulva wad wang
    wedgie weed weirdo whiz willy womb woody xx yury
"""


def check(material: Material) -> Check:
    """Notes for texts with such a word; fails if they are more than in the real data, beyond chance."""
    lexicon = _lexicon()
    if lexicon is None:
        return Check(NAME, TITLE, "skipped", f"better-profanity is not installed: {INSTALL}")
    found = {row: terms for row, text in enumerate(material.texts) if (terms := lexicon.found(text).get(NAME))}
    real = material.sampled_known
    real_hits = sum(bool(lexicon.found(text_of(row))) for row in real)
    ours, usual = intervals.share(len(found), len(material.rows)), intervals.share(real_hits, len(real))
    p_value = intervals.rates_differ(len(found), len(material.rows), real_hits, len(real))
    more = p_value < material.config.significance and ours.value > usual.value
    findings = [
        material.finding(row, "note", f"has {', '.join(f'{term[0]}***' for term in terms)}, which is on a list of "
                         "offensive words")
        for row, terms in found.items()
    ]  # fmt: skip
    figures: dict[str, Number] = {**ours.figures("share"), **usual.figures("real_share"), "p_value": p_value}
    status: Status = "failed" if more else "noted" if found else "passed"
    summary = (
        f"{counted(len(found), 'text')} of {len(material.rows):,} {'has' if len(found) == 1 else 'have'} a word of a "
        f"list of offensive ones: {ours}; of the real rows {usual}."
    )
    return material.check(NAME, TITLE, status, summary, figures, findings)


def _lexicon() -> Lexicon | None:
    """The package's list of words, read as the text file that it is; None if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders if (file := Path(folder) / LIST).is_file()]
    if not files:
        return None
    lines = files[0].read_text(encoding="utf-8").splitlines()
    # A word with a sign in the place of a letter would be another word when the sign is gone
    terms = {line.strip().casefold() for line in lines}
    plain = {term for term in terms if term and all(c.isalnum() or c in " -'" for c in term) and len(term) > 1}
    return Lexicon({NAME: sorted(plain - set(_HARMLESS.split()))})
