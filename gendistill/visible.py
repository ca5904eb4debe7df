"""Text made safe to look at: what steers a terminal, or the order that a reader sees, is written out."""

from __future__ import annotations

import re

# Controls but tab and line feed; half characters; marks that turn the direction of what follows or cannot be seen.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def visible(text: str) -> str:
    """The text with every such character as its escape, such as ``\\u202e``.

    Against Trojan Source (Boucher and Anderson, 2021) and terminal escapes. Joiners (U+200C, U+200D) are
    written out too, though some scripts need them: this is for looking at, never for what is kept.
    """
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\r\n", "\n"))
