"""Instructions with their answers: what a prompt needs to know, and what a reply's pairs are.

An example has the fields (system, user, assistant), or (system, user, assistant, user, assistant, ...) for a
conversation (`gendistill.data.instructions`); its label is the cluster of skills that it belongs to. A generator writes
one turn and its answer. Of a real conversation it is shown the first turn, which alone can be understood by itself.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gendistill.examples import Example
from gendistill.tasks.base import Check, Fields
from gendistill.tasks.instruction_replies import pairs

SHOWN_CHARS = 6_000  # of exemplars in one prompt, about 1,500 tokens; small models read 2,048 or 8,192


@dataclass(frozen=True)
class Instruction:
    """The clusters of a dataset of instructions, and what is said about it.

    :param label_names: the clusters' names, in the order of their indices; one that is empty is not mentioned.
    :param description: what the instructions are.
    :param system: the system message that the real examples share, which candidates have too.
    """

    label_names: tuple[str, ...] = ("",)
    description: str | None = None
    system: str = ""

    name: ClassVar[str] = "instruction"
    whole_when_cut: ClassVar[bool] = True
    json_keys: ClassVar[tuple[str, ...]] = ("instruction", "answer")

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_names", tuple(self.label_names))

    def prompt_values(self, label: int, exemplars: Sequence[Example], best: Sequence[Example] = ()) -> dict[str, Any]:
        """The values of a prompt template (``prompts/README.md`` lists them) for an instruction of the group ``label``.

        :param exemplars: real examples to show; those that are too long together are left out.
        :param best: candidates chosen so far, shown after them.
        """
        views = [_first_turn(example) for example in [*best, *exemplars]]
        fitting, room = [], SHOWN_CHARS
        for row, view in enumerate(views):
            length = len(view["instruction"]) + len(view["answer"])
            if length <= room:
                fitting.append(row)
                room -= length
        if views and not fitting:  # half an answer is a bad example, but better than none of how to write one
            fitting = [min(range(len(views)), key=lambda row: len("".join(views[row].values())))]
            views[fitting[0]] = {name: text[: SHOWN_CHARS // 2] for name, text in views[fitting[0]].items()}
        return {
            "description": self.description,
            "labels": [name for name in self.label_names if name],
            "label": self.label_names[label],
            "label_description": "",
            "system": self.system,
            "exemplars": [views[row] for row in fitting if row >= len(best)],
            "best": [views[row] for row in fitting if row < len(best)],
        }

    def stop(self, chat: bool) -> tuple[str, ...]:
        """Stop strings: a base model ends where it begins the next block; a chat model ends its turn by itself."""
        return () if chat else ("\n### Instruction:",)

    def candidates(self, text: str, finish_reason: str, chat: bool) -> list[Fields]:
        """(system, instruction, answer) of each pair in one reply; a pair that was cut off is left out."""
        return [(self.system, *pair) for pair in pairs(text, finish_reason, chat)]

    def answer(self, example: Example, chat: bool) -> str:
        """How a generator should have replied with this example.

        A base model's ends with what it is stopped at, so that one that is tuned learns where to end.
        """
        view = _first_turn(example)
        if chat:
            return f"Question: {view['instruction']}\nAnswer: {view['answer']}"
        return f"{view['instruction']}\n\n### Response:\n{view['answer']}\n\n### Instruction:"

    def checks(self, real: Sequence[Example]) -> Check | None:
        """What an answer must be like; see `gendistill.tasks.instruction_checks`."""
        from gendistill.tasks.instruction_checks import AnswerCheck  # not needed to write prompts, and takes numpy

        return AnswerCheck(real).check if real else None


def _first_turn(example: Example) -> dict[str, str]:
    system, instruction, answer = example.fields[:3]
    return {"instruction": instruction, "answer": answer, "system": system}
