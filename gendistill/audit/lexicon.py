"""Terms in texts: whole words, without case and punctuation, one or several in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gendistill.folding import fold


class Lexicon:
    """:param groups: name of a group -> its terms; a term may be of several words."""

    def __init__(self, groups: Mapping[str, Iterable[str]]) -> None:
        self.groups = tuple(groups)
        self._terms: dict[str, list[tuple[tuple[str, ...], str]]] = {}  # first word -> (words, group)
        for group, terms in groups.items():
            for term in terms:
                words = tuple(fold(term))
                if words:
                    self._terms.setdefault(words[0], []).append((words, group))

    def found(self, text: str) -> dict[str, list[str]]:
        """Group -> the terms of it that the text has, each once, in their order."""
        units = fold(text)
        hits: dict[str, dict[str, None]] = {}
        for place, unit in enumerate(units):
            for words, group in self._terms.get(unit, ()):
                if tuple(units[place : place + len(words)]) == words:
                    hits.setdefault(group, {})[" ".join(words)] = None
        return {group: list(terms) for group, terms in hits.items()}


# Words by which a text speaks of women and men, of faiths, of where people are from, and of how old they are. A short
# list: what it counts is a sign, not a census. Words that mean something else as often are left out (old, Turkey).
PEOPLE: dict[str, tuple[str, ...]] = {
    "women": (
        "she", "her", "hers", "herself", "woman", "women", "girl", "girls", "female", "females", "mother", "mothers",
        "daughter", "daughters", "sister", "sisters", "wife", "wives", "aunt", "grandmother", "lady", "ladies", "queen",
        "actress", "actresses", "businesswoman", "spokeswoman", "policewoman", "chairwoman", "mrs", "ms",
    ),
    "men": (
        "he", "him", "his", "himself", "man", "men", "boy", "boys", "male", "males", "father", "fathers", "son", "sons",
        "brother", "brothers", "husband", "husbands", "uncle", "grandfather", "gentleman", "gentlemen", "king",
        "businessman", "spokesman", "policeman", "chairman", "mr",
    ),
    "christians": ("christian", "christians", "christianity", "catholic", "catholics", "protestant", "protestants",
                   "church", "churches", "priest", "bishop", "pope", "evangelical", "evangelicals"),
    "muslims": ("muslim", "muslims", "islam", "islamic", "mosque", "mosques", "imam", "sunni", "shia", "shiite",
                "hijab"),
    "jews": ("jew", "jews", "jewish", "judaism", "synagogue", "synagogues", "rabbi", "rabbis"),
    "hindus": ("hindu", "hindus", "hinduism"),
    "buddhists": ("buddhist", "buddhists", "buddhism"),
    "sikhs": ("sikh", "sikhs", "sikhism", "gurdwara"),
    "atheists": ("atheist", "atheists", "atheism"),
    "north_americans": ("american", "americans", "canadian", "canadians"),
    "latin_americans": ("mexican", "mexicans", "brazilian", "brazilians", "argentine", "argentines", "colombian",
                        "colombians", "venezuelan", "venezuelans", "cuban", "cubans", "latino", "latinos", "latina"),
    "british_and_irish": ("british", "briton", "britons", "english", "englishman", "scottish", "scots", "welsh",
                          "irish"),
    "other_europeans": ("german", "germans", "french", "frenchman", "italian", "italians", "spanish", "spaniard",
                        "spaniards", "dutch", "greek", "greeks", "swedish", "swedes", "portuguese", "european",
                        "europeans"),
    "east_europeans": ("russian", "russians", "ukrainian", "ukrainians", "polish", "poles", "romanian", "romanians",
                       "hungarian", "hungarians", "czech", "czechs", "serbian", "serbs", "bulgarian", "bulgarians"),
    "middle_easterners": ("arab", "arabs", "iraqi", "iraqis", "iranian", "iranians", "israeli", "israelis",
                          "palestinian", "palestinians", "saudi", "saudis", "syrian", "syrians", "turkish", "turks",
                          "egyptian", "egyptians"),
    "south_asians": ("pakistani", "pakistanis", "bangladeshi", "bangladeshis", "sri lankan", "sri lankans", "nepali",
                     "afghan", "afghans", "indian", "indians"),
    "east_asians": ("chinese", "japanese", "korean", "koreans", "taiwanese", "vietnamese", "thai", "thais",
                    "indonesian", "indonesians", "filipino", "filipinos"),
    "africans": ("african", "africans", "nigerian", "nigerians", "kenyan", "kenyans", "south african",
                 "south africans", "ethiopian", "ethiopians", "somali", "somalis", "sudanese", "ghanaian", "ghanaians"),
    "young_people": ("child", "children", "kid", "kids", "baby", "babies", "teenager", "teenagers", "teen", "teens",
                     "youth", "youths", "toddler", "toddlers", "schoolboy", "schoolgirl"),
    "older_people": ("elderly", "pensioner", "pensioners", "retiree", "retirees", "senior citizen", "senior citizens",
                     "grandparent", "grandparents"),
}  # fmt: skip
