"""Texts of models and rows as a page may show them: nothing unseen, nothing endless, nothing that ends a script."""

from __future__ import annotations

import json
from typing import Any

from gendistill.visible import visible

_IN_SCRIPT = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def shown(text: str, limit: int) -> str:
    """``visible``, of the first ``limit`` characters; says so where there are more."""
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])} … [{limit:,} of {len(text):,} characters shown]"


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it can end the element or begin a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPT)
