"""Instruction examples as tokens: the prompt, and the answer that is learnt.

The fields of an example are (system, user, assistant), or longer with user and assistant in turn; the system text may
be empty and the last field is the answer. A tokenizer with a chat template speaks by it; one without gets a plain
template, after Alpaca's (Taori et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gendistill.errors import DataError
from gendistill.generators.chat import chat_text

PROMPT_SHARE = 2  # of an example that is too long, a prompt may keep half of the room


@dataclass(frozen=True, slots=True)
class Conversation:
    """The token ids of one example."""

    prompt: list[int]
    answer: list[int]  # with its end; never empty
    prompt_cut: bool = False  # the prompt lost its beginning
    answer_cut: bool = False  # the answer lost its end

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Cut:
    """How many of ``rows`` examples were longer than the context."""

    rows: int
    prompts: int  # lost their beginning
    answers: int  # lost their end: what is learnt from them does not stop where it should

    @classmethod
    def of(cls, conversations: Iterable[Conversation]) -> Cut:
        every = list(conversations)
        return cls(len(every), sum(c.prompt_cut for c in every), sum(c.answer_cut for c in every))


class Conversations:
    """Turns examples into tokens.

    :param tokenizer: a tokenizer of transformers.
    :param ends: token ids that end an answer, the first of which is added where a template has none.
    :param limit: the most tokens of an example, at least 4.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int], limit: int) -> None:
        self.tokenizer, self.ends, self.limit = tokenizer, list(ends), limit
        self.chat = bool(tokenizer.chat_template)

    def encode(self, fields: Sequence[str]) -> Conversation:
        """An example's tokens, cut to the limit.

        A prompt of more than half the room loses its beginning; where that does not suffice, the answer loses its end,
        and with it the token that says so.

        :raises DataError: the fields are no conversation, or the tokenizer's template does not take it.
        """
        if len(fields) < 3 or len(fields) % 2 == 0:
            raise DataError(
                f"an instruction example has fields system, user, assistant (user, assistant ...), not {len(fields)}"
            )
        prompt, whole = self._ids(fields[:-1]), self._ids(fields)
        # Tokens that the answer changes belong to it.
        same = next((k for k, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt))
        prompt, answer = whole[:same], whole[same:]
        stop = next((k for k in range(len(answer) - 1, -1, -1) if answer[k] in self.ends), None)
        # What a template writes after the end (a line break) is never asked for.
        answer = answer[: stop + 1] if stop is not None else [*answer, *self.ends[:1]]
        kept = min(len(prompt), max(self.limit - len(answer), self.limit // PROMPT_SHARE))
        shown = answer[: self.limit - kept]
        return Conversation(prompt[len(prompt) - kept :], shown, kept < len(prompt), len(shown) < len(answer))

    def prompt(self, fields: Sequence[str], room: int) -> list[int]:
        """The tokens of a prompt alone (an example's fields without the answer), its last ``room`` if it has more.

        :raises DataError: as ``encode``.
        """
        if len(fields) < 2 or len(fields) % 2:
            raise DataError(f"a prompt has the fields system, user (assistant, user ...), not {len(fields)}")
        return self._ids(fields)[-room:]

    def _ids(self, fields: Sequence[str]) -> list[int]:
        """Up to where the model is to answer if the last turn is the user's, else with the answer's end."""
        if not self.chat:
            # What looks like a special token in a row stays text.
            ids = list(self.tokenizer(self._plain(fields), split_special_tokens=True).input_ids)
            # Some tokenizers end every text; here only an answer ends.
            while ids and ids[-1] in self.ends:
                ids.pop()
            return [*ids, *self.ends[:1]] if len(fields) % 2 else ids
        turns = [("system", fields[0])] if fields[0] else []
        turns += [("assistant" if k % 2 else "user", text) for k, text in enumerate(fields[1:])]
        answer = turns.pop()[1] if len(fields) % 2 else None
        try:
            text = chat_text(self.tokenizer, turns, answer)
        except Exception as error:  # a template may raise anything
            raise DataError(f"the tokenizer's chat template does not take a conversation ({error})") from error
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @staticmethod
    def _plain(fields: Sequence[str]) -> str:
        parts = [fields[0]] if fields[0] else []
        for k, text in enumerate(fields[1:]):
            parts.append(f"### {'Response' if k % 2 else 'Instruction'}:\n{text}")
        if len(fields) % 2 == 0:
            parts.append("### Response:\n")
        return "\n\n".join(parts)
