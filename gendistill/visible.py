"""Text made safe to look at: what steers a terminal, or the order that a reader sees, is written out."""

from __future__ import annotations

import re

# Control characters but tab and line feed, direction marks and overrides (Trojan Source: Boucher and Anderson, 2021),
# zero-width ones that join no letters, line and paragraph separators, tags, and halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with what cannot be seen, or changes how the rest is seen, written as its escape (``\\u202e``)."""
    return _UNSEEN.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
