"""Text to look at: nothing that steers a terminal or turns what is read is left in it, and all else is as it was."""

from __future__ import annotations

import io
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gendistill.cli.terminal import tell
from gendistill.visible import visible

TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(max_size=60))
def test_no_control_and_no_turn_is_left(text: str) -> None:
    for character in visible(text):
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        assert unicodedata.bidirectional(character) not in TURNING


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=60))
def test_plain_text_of_any_script_is_as_it_was(text: str) -> None:
    assert visible(text) == text


def test_a_model_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    tell(Console(file=out, force_terminal=True), "\x1b]0;owned\x07\x1b[2J[bold]red[/bold] \u202eelif.exe")
    assert out.getvalue() == "\\u001b]0;owned\\u0007\\u001b[2J[bold]red[/bold] \\u202eelif.exe\n"
