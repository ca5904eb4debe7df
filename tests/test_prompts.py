"""Templates: rendering, the sandbox, errors, and that they are shipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gendistill.errors import ConfigError
from gendistill.examples import Example
from gendistill.prompts import load_template, one_line, render, render_messages, template_from_string, templates_dir
from gendistill.tasks import TextClassification

ROOT = Path(__file__).parent.parent
TASK = TextClassification(("business", "sport"), {"sport": "games and athletes"}, "News headlines")
NASTY = ["{{ 7*7 }}", "{% raw %}", "{# note #}", "a <b> & 'c'", "{{ cycler.__init__.__globals__ }}", "{% block user %}"]


def values(label: int = 1, exemplars: tuple[str, ...] = ("Cup won", "Race lost"), best: tuple[str, ...] = ()) -> Any:
    return TASK.prompt_values(
        label, [Example((text,), label) for text in exemplars], [Example((text,), label) for text in best]
    )


def test_base_prompt_is_an_open_list() -> None:
    prompt = render(load_template("text_classification.base"), **values(best=("Match drawn",)))
    heading = "News headlines\nCategory: sport (games and athletes)\n\n"
    assert prompt == heading + "- Cup won\n- Race lost\n- Match drawn\n-"


def test_base_prompt_without_descriptions_or_exemplars() -> None:
    bare = TextClassification(("a", "b")).prompt_values(0, [])
    assert render(load_template("text_classification.base"), **bare) == "Texts\nCategory: a\n\n-"


def test_chat_prompt_is_one_message_per_role() -> None:
    messages = render_messages(load_template("text_classification.chat"), **values(best=("Match drawn",)))
    assert [role for role, _ in messages] == ["system", "user"]
    user = messages[1][1]
    assert "- Cup won\n- Race lost\n- Match drawn\n" in user
    assert "sport (games and athletes)" in user and "business, sport" in user and "News headlines" in user
    assert "\n\n\n" not in user
    assert "Examples" not in render_messages(load_template("text_classification.chat"), **values(exemplars=()))[1][1]


@pytest.mark.parametrize("row", NASTY)
def test_rows_are_never_templates(row: str) -> None:
    shown = values(exemplars=(row,), best=(row,))
    assert render(load_template("text_classification.base"), **shown).count(f"- {row}\n") == 2
    assert render_messages(load_template("text_classification.chat"), **shown)[1][1].count(f"- {row}\n") == 2
    names = TextClassification((row, "b"), {row: row}, row).prompt_values(0, [])
    assert render(load_template("text_classification.base"), **names).startswith(f"{row}\nCategory: {row} ({row})\n")


def test_line_breaks_in_a_row_do_not_end_its_list_item() -> None:
    prompt = render(
        load_template("text_classification.base"), **values(exemplars=("one\r\n\n  two\u2028three\tx  y\n",))
    )
    assert "- one two three\tx  y\n-" in prompt
    assert one_line("kept as it is") == "kept as it is"


def test_your_own_template_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.j2"
    path.write_text("{{ label }}: {{ exemplars[0] }}", encoding="utf-8")
    template = load_template(path)
    assert template.name == "mine.j2"
    assert render(template, **values()) == "sport: Cup won"
    assert render_messages(template, **values()) == (("user", "sport: Cup won"),)
    before = template.hash
    path.write_text("{{ label }}", encoding="utf-8")
    assert load_template(str(path)).hash != before


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.j2.*No such file.*text_classification\.base"):
        load_template(tmp_path / "none.j2")
    with pytest.raises(ConfigError, match="directory"):
        load_template(tmp_path)
    (tmp_path / "latin.j2").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_template(tmp_path / "latin.j2")
    with pytest.raises(ConfigError, match="line 2"):
        template_from_string("fine\n{% for x in %}")
    with pytest.raises(ConfigError, match="'labell' is undefined"):
        render(template_from_string("{{ labell }}"), **values())
    with pytest.raises(ConfigError, match="'labell' is undefined"):
        render_messages(template_from_string("{% block user %}{{ labell }}{% endblock %}"), **values())
    with pytest.raises(ConfigError, match="cannot be rendered"):
        render(template_from_string("{{ 1 // 0 }}"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ label.__init__.__globals__ }}",
        "{% set _ = exemplars.append('x') %}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(ConfigError):
        render(template_from_string(source), **values())


def test_every_package_and_template_is_shipped() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[(.*?)\]", project, re.DOTALL | re.MULTILINE)
    assert listed is not None
    there = {
        ".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "gendistill").rglob("*.py")
    }  # a folder that is not listed would be missing from the wheel
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == there | {"gendistill._prompts"}
    assert {file.name for file in templates_dir().glob("*.j2")} >= {
        "text_classification.base.j2",
        "text_classification.chat.j2",
    }
