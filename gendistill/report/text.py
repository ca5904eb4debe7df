"""Texts of models and rows as a page may show them: nothing unseen, nothing endless, nothing that ends a script."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters but tab and line feed, direction marks and overrides, zero-width ones that join no letters, line
# and paragraph separators, tags, and halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_IN_SCRIPT = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def visible(text: str) -> str:
    """The text with what cannot be seen, or changes how the rest is seen, written as its escape (``\\u202e``)."""
    return _UNSEEN.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(text: str, limit: int) -> str:
    """``visible``, of the first ``limit`` characters; says so where there are more."""
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])} … [{limit:,} of {len(text):,} characters shown]"


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it can end the element or begin a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPT)
