"""The task seam: what the shape of an example decides. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gendistill.examples import Example

if TYPE_CHECKING:
    from gendistill.filters import Rejection

Fields = tuple[str, ...]
Check = Callable[[Example], "Rejection | None"]


class Task(Protocol):
    """A shape of examples, for one dataset."""

    @property
    def name(self) -> str:
        """Of its templates."""
        ...

    @property
    def json_keys(self) -> tuple[str, ...]:
        """Of the texts, where a server is asked for JSON."""
        ...

    @property
    def label_names(self) -> tuple[str, ...]:
        """The groups that a generator is asked for in turn."""
        ...

    def prompt_values(self, label: int, exemplars: Sequence[Example], best: Sequence[Example] = ()) -> dict[str, Any]:
        """The values of a prompt template (``prompts/README.md`` lists them) for an example of the class ``label``.

        :param exemplars: real examples to show.
        :param best: candidates chosen so far, shown after them.
        """
        ...

    def stop(self, chat: bool) -> tuple[str, ...]:
        """Stop strings of a request."""
        ...

    @property
    def whole_when_cut(self) -> bool:
        """Whether what ``candidates`` finds in a reply that was cut off is whole nevertheless."""
        ...

    def candidates(self, text: str, finish_reason: str, chat: bool) -> list[Fields]:
        """The text fields of each candidate in one reply, cleaned; none if there is none."""
        ...

    def answer(self, example: Example, chat: bool) -> str:
        """How a generator should have replied with this example; what a tuned generator learns."""
        ...

    def checks(self, real: Sequence[Example]) -> Check | None:
        """What a candidate of this shape must pass beyond what any text must, learnt from the real rows."""
        ...
