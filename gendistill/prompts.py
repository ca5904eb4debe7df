"""Finds, sandboxes and renders the prompt templates of the folder ``prompts/``.

A template is trusted as far as a sandbox trusts: no attribute that begins with an underscore, no changing of values,
no files. The rows of a dataset are not trusted at all: they only ever reach a template as values, so a row that
contains ``{{ 7*7 }}`` comes out as typed. Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gendistill.errors import ConfigError
from gendistill.examples import content_hash

ROLES = ("system", "user", "assistant")  # the blocks that a chat template may have

_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def one_line(text: str) -> str:
    """The text with each run of line breaks, and the blanks around it, folded to one space."""
    return _LINE_BREAKS.sub(" ", text.strip())


_environment = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
)
_environment.filters["one_line"] = one_line


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template: ``name`` is for provenance, ``hash`` changes when the source does."""

    name: str
    source: str
    compiled: jinja2.Template

    @property
    def hash(self) -> str:
        return content_hash(self.source)


def templates_dir() -> Path:
    """The folder of the shipped templates: inside the package from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def load_template(name_or_path: str | Path) -> Template:
    """A shipped template by its name (``text_classification.base``) or one of your own by its path.

    Raises ConfigError when there is none or when it has a syntax error (with its line).
    """
    shipped = templates_dir() / f"{name_or_path}.j2"
    named = isinstance(name_or_path, str) and re.fullmatch(r"[\w.-]+", name_or_path) is not None
    if named and shipped.is_file():
        name, path = str(name_or_path), shipped
    else:
        path = Path(name_or_path).expanduser()
        name = path.name
    try:
        source = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in templates_dir().glob("*.j2")))
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        raise ConfigError(f"prompt template {path}: {reason} (shipped templates: {known})") from error
    return template_from_string(source, name=name)


def template_from_string(source: str, *, name: str = "template") -> Template:
    """Compile a template. Never pass the text of a row here."""
    try:
        return Template(name, source, _environment.from_string(source))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"prompt template {name}, line {error.lineno}: {error.message}") from error


def render(template: Template, **values: Any) -> str:
    """The prompt for a base model. Blanks at its end are dropped: they would split the first generated word.

    Raises ConfigError when the template uses a value that does not exist or does what the sandbox forbids.
    """
    return _guarded(template, lambda: template.compiled.render(**values)).rstrip()


def render_messages(template: Template, **values: Any) -> tuple[tuple[str, str], ...]:
    """The (role, content) messages for a chat model: one for each block named after a role that is not empty.

    A template without such blocks gives one user message. Raises ConfigError as ``render`` does.
    """
    roles = [role for role in ROLES if role in template.compiled.blocks]
    if not roles:
        return (("user", render(template, **values)),)

    def block(role: str) -> str:
        context = template.compiled.new_context(values)
        return "".join(template.compiled.blocks[role](context)).strip()

    contents = [(role, _guarded(template, partial(block, role))) for role in roles]
    return tuple((role, content) for role, content in contents if content)


def _guarded(template: Template, render_it: Callable[[], str]) -> str:
    try:
        return render_it()
    except jinja2.exceptions.SecurityError as error:
        raise ConfigError(f"prompt template {template.name} does what the sandbox forbids: {error}") from error
    except jinja2.UndefinedError as error:
        raise ConfigError(f"prompt template {template.name}: {error}; prompts/README.md lists the values") from error
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"prompt template {template.name} cannot be rendered: {error}") from error
