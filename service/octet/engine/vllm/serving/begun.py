"""The assistant's message that a conversation ends with: the model goes on with it.

Of such a turn the template writes no more than how one begins. What the model has said is put behind that as
it is, so that neither a template that trims nor a tokenizer that joins can change where the model goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from octet.engine.types import Message, Part, ReasoningPart, Role, TextPart, ToolCallPart
from octet.engine.vllm.serving.turns import on_a_line, spelled, unfinished_list


@dataclass(frozen=True, slots=True)
class Begun:
    """What the model has said of its turn.

    Attributes:
        at: the message's place in the conversation.
        said: the message without the calls at its end.
        calls: these, the last of which is cut off.
    """

    at: int
    said: Message
    calls: tuple[ToolCallPart, ...]

    @property
    def field(self) -> str:
        """The path of the message."""
        return f"messages[{self.at}]"

    @property
    def text(self) -> str:
        """All that it has written behind its reasoning."""
        return self.written(spelled(self.said))

    @property
    def latest(self) -> str:
        """Likewise, with no more than the last one of its calls."""
        texts = [part for part in self.said.parts if isinstance(part, TextPart)]
        return replace(self, calls=self.calls[-1:]).written(replace(self.said, parts=tuple(texts)))

    def written(self, turn: Message) -> str:
        """What a turn that ends with this message has of text, with the calls at its end."""
        parts: list[Part] = [part for part in turn.parts if isinstance(part, TextPart)]
        if self.calls:
            parts += on_a_line(parts, unfinished_list(self.calls))
        return "".join(part.text for part in parts if isinstance(part, TextPart))


def begun_turn(messages: Sequence[Message]) -> Begun | None:
    """What the model has said of its turn; None where it has still to begin."""
    if not messages or (last := messages[-1]).role is not Role.ASSISTANT:
        return None
    end = len(last.parts)
    while end and isinstance(last.parts[end - 1], ToolCallPart):
        end -= 1
    calls = tuple(part for part in last.parts[end:] if isinstance(part, ToolCallPart))
    return Begun(len(messages) - 1, replace(last, parts=last.parts[:end]), calls)


def reasoning_of(turn: Message) -> str:
    """What the model has thought of in a turn."""
    return "".join(part.text for part in turn.parts if isinstance(part, ReasoningPart))
