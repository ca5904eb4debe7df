"""A few rows of every shape, as a distilled.jsonl has them, with texts that a careless writer of lines would break."""

from __future__ import annotations

from typing import Any

ODD = 'first\nsecond\r\n\u2028third\u2029 fourth\x85 fifth \x1c {{ 7*7 }} ```\n--- "q" 日本 🎉'


def _turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant") * (len(contents) // 2)
    return first + [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]


def _with_rest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "id": f"{i:016x}", "scores": {"teacher": 0.9}, "provenance": {"round": 1}} for i, row in enumerate(rows)
    ]


ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": _with_rest(
        [
            {"text": "Shares rose.", "label": 0, "label_name": "business"},
            {"text": ODD, "label": 1, "label_name": "sports"},
        ]
    ),
    "pairs": _with_rest(
        [
            {"text_a": "A man sleeps.", "text_b": "Somebody rests.", "label": 0, "label_name": "entailment"},
            {"text_a": ODD, "text_b": "Nobody rests.", "label": 1, "label_name": "neutral"},
        ]
    ),
    "multi-label": _with_rest(
        [
            {"text": "What a gift!", "labels": ["joy", "surprise"], "label": 1, "label_name": "joy + surprise"},
            {"text": "It is noon.", "labels": [], "label": 0, "label_name": "none"},
            {"text": ODD, "labels": ["surprise"], "label": 2, "label_name": "surprise"},
        ]
    ),
    "instruction": _with_rest(
        [
            {"messages": _turns("Name a colour.", "Blue."), "cluster": 0, "cluster_name": "colours"},
            {"messages": _turns("Hello!", "Hello.", ODD, "Six.", system="Be brief."), "cluster": 1,
             "cluster_name": "talk"},
        ]
    ),
}  # fmt: skip
NAMES: dict[str, list[str]] = {
    "classification": ["business", "sports"],
    "pairs": ["entailment", "neutral"],
    "multi-label": ["joy", "surprise"],
    "instruction": [],
}
ANSWERS = {"classification": "sports", "pairs": "neutral", "multi-label": "surprise", "instruction": "Six."}
