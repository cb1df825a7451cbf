"""Conversations as turns that a chat template can put into words.

Templates are written for the conversations of a chat window: some take nothing but users and the model in
turn, one system message before them and one text in each, and know no tools. Whatever else a conversation
holds is said in another way, the same whether the request offers tools or not; nothing is left out, and
nothing changes its place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from octet.engine.types import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

BETWEEN = "\n\n"
"""Between the texts of messages that become one turn."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a chat template says whole, in order, and each message for itself.

    Attributes:
        system: a system message before all others.
        late_system: several of them, and later ones.
        repeated: messages of one role in a row.
        assistant_first: a conversation that the assistant begins.
        calls: tool calls at the end of the assistant's message, and their results right behind it.
        loose_calls: calls whose results come late or never.
        shown_results: results with pictures.
    """

    system: bool = True
    late_system: bool = True
    repeated: bool = True
    assistant_first: bool = True
    calls: bool = True
    loose_calls: bool = True
    shown_results: bool = True

    def __and__(self, other: "Abilities") -> "Abilities":
        names = [item.name for item in fields(self)]
        return Abilities(**{name: getattr(self, name) and getattr(other, name) for name in names})


def to_turns(messages: Sequence[Message], able: Abilities) -> list[Message]:
    """The conversation, changed as little as a template with these abilities needs it.

    - Texts that follow each other within a message become one, as they are.
    - System messages become one before all others. Later ones, and all where the template knows none, become
      the user's.
    - Messages of one role in a row become one, with an empty line between their texts.
    - An empty turn of the user's goes before an assistant that speaks first.
    - Calls become a JSON list in the assistant's text, and results the user's, with their tools' names.
    """
    turns = [replace(message, parts=_joined(message.parts)) for message in messages]
    turns = _with_system_first(turns, able)
    turns = turns if able.repeated else _merged(turns)
    if _says_calls(turns, able):
        turns = [piece for turn in turns for piece in _split_behind_calls(turn)]
    else:
        said = [spelled(turn) for turn in turns]
        turns = said if able.repeated else _merged(said)
    if not able.assistant_first:
        first = next((i for i, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
        if first < len(turns) and turns[first].role is Role.ASSISTANT:
            turns.insert(first, Message(Role.USER, ()))
    return turns


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts, with texts that follow each other as one; what was thought was thought before."""
    joined: list[Part] = []
    for part in sorted(parts, key=lambda part: not isinstance(part, ReasoningPart)):
        last = joined[-1] if joined else None
        if isinstance(part, TextPart) and isinstance(last, TextPart):
            joined[-1] = TextPart(last.text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


def _with_system_first(turns: list[Message], able: Abilities) -> list[Message]:
    """The turns with one system message at most, before all others, unless the template takes more."""
    talked = any(turn.role is not Role.SYSTEM for turn in turns)
    if able.late_system and talked:
        return turns
    head = next((i for i, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    leading = _merged(turns[:head])
    if not (able.system and talked):
        leading = [replace(turn, role=Role.USER) for turn in leading]
    later = [replace(turn, role=Role.USER) if turn.role is Role.SYSTEM else turn for turn in turns[head:]]
    return leading + later


def _merged(turns: Iterable[Message]) -> list[Message]:
    """The turns, with those of one role in a row as one. Results of tools stay apart as they are."""
    merged: list[Message] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if last is None or last.role is not turn.role or turn.role is Role.TOOL:
            merged.append(turn)
            continue
        between = [TextPart(BETWEEN)] if _shows(last) and _shows(turn) else []
        merged[-1] = replace(last, parts=_joined((*last.parts, *between, *turn.parts)))
    return merged


def _shows(turn: Message) -> bool:
    """Whether there is anything in a turn that another one could run into."""
    return any(not isinstance(part, ReasoningPart) for part in turn.parts)


def _says_calls(turns: Sequence[Message], able: Abilities) -> bool:
    """Whether a template can say all of a conversation's calls and results, if there are any."""
    if not any(isinstance(part, ToolCallPart | ToolResultPart) for turn in turns for part in turn.parts):
        return True
    if not able.calls or (not able.shown_results and any(map(_has_shown_results, turns))):
        return False
    if any(_speaks_behind_calls(turn) for turn in turns) and not able.repeated:
        return False
    return able.loose_calls or _answers_follow_calls(turns)


def _answers_follow_calls(turns: Sequence[Message]) -> bool:
    """Whether all results of a message's calls, and nothing else, come right behind it."""
    waiting: set[str] = set()
    for turn in turns:
        if waiting and turn.role is not Role.TOOL:
            return False
        for part in turn.parts:
            if isinstance(part, ToolCallPart):
                waiting.add(part.id)
            elif isinstance(part, ToolResultPart):
                if part.call_id not in waiting:
                    return False
                waiting.remove(part.call_id)
    return not waiting


def _has_shown_results(turn: Message) -> bool:
    return turn.role is Role.TOOL and any(isinstance(part, ImagePart) for part in turn.parts)


def _speaks_behind_calls(turn: Message) -> bool:
    return any(
        isinstance(call, ToolCallPart) and not isinstance(part, ToolCallPart)
        for call, part in pairwise(turn.parts)
    )


def _split_behind_calls(turn: Message) -> list[Message]:
    """The turn as messages that end with their calls, as templates say them."""
    pieces: list[list[Part]] = [[]]
    for part in turn.parts:
        if pieces[-1] and isinstance(pieces[-1][-1], ToolCallPart) and not isinstance(part, ToolCallPart):
            pieces.append([])
        pieces[-1].append(part)
    return [replace(turn, parts=tuple(piece)) for piece in pieces]


def spelled(turn: Message) -> Message:
    """The turn with its calls and results as text."""
    parts: list[Part] = []
    calls: list[ToolCallPart] = []
    for part in turn.parts:
        match part:
            case ToolCallPart():
                calls.append(part)
                continue
            case ToolResultPart(_, name, result):
                part = TextPart(f"Result of {name}: {result}")
        if calls:
            parts += on_a_line(parts, _call_list(calls))
            calls = []
            parts.append(TextPart("\n"))
        elif isinstance(part, TextPart) and turn.role is Role.TOOL and parts:
            parts.append(TextPart("\n"))
        parts.append(part)
    if calls:
        parts += on_a_line(parts, _call_list(calls))
    return Message(Role.USER if turn.role is Role.TOOL else turn.role, _joined(parts))


def on_a_line(before: Sequence[Part], text: str) -> list[Part]:
    """A text on a line of its own."""
    if any(isinstance(part, TextPart) and part.text for part in before):
        text = f"\n{text}"
    return [TextPart(text)]


def unfinished_list(calls: Sequence[ToolCallPart]) -> str:
    """Calls as Gemma 3 is told to write them, up to where the arguments of the last one break off."""
    *others, last = calls
    begun = _call_list(others).removesuffix("]")
    return f"{begun}{', ' if others else ''}{_call(last, last.arguments_json)}"


def _call_list(calls: Iterable[ToolCallPart]) -> str:
    """Calls as Gemma 3 is told to write them; arguments are repeated as the model wrote them."""
    return f"[{', '.join(_call(call, call.arguments_json or '{}') + '}' for call in calls)}]"


def _call(call: ToolCallPart, arguments: str) -> str:
    """A call up to the end of its arguments."""
    return f'{{"name": "{call.name}", "parameters": {arguments}'
