"""Tool calls in a model's answer, found as it grows; docs/tool-calls.md says which forms there are.

Only the names of tools on offer make a call. Whatever else looks like one stays text.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octet.translate.answer_text import AnswerText
from octet.translate.growing_text import CutOff, GrowingText, NoCall, Steps, Words
from octet.translate.quoted_code import FENCE, TICKS, QuotedCode
from octet.translate.strict_calls import HeldArguments, strict_spellings
from octet.translate.tool_syntax import BLANKS, SPACE, Call, CallReader

# What a fenced block with calls is marked as, in capitals or not; the second ones are marks of calls only.
_LABELS = ("", "json", "py", "python", "python3")
_CALL_LABELS = ("tool_code", "tool_call", "tool_calls", "function_call")
_TAGS = Words(_CALL_LABELS)

# What calls may begin with anywhere.
_MARKS = "[{<`"
_PLAIN = re.compile(r"[^\[{<`\n]*\n?")
_INDENT = re.compile(r"[ \t]*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_LABEL = re.compile(r"[A-Za-z0-9_+#-]*")
_LABEL_LENGTH = 32
_NAME_START = re.compile(r"[A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class TextFound:
    """Text to append to the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallFound:
    """The answer's next call has begun; `index` counts from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsFound:
    """JSON text to append to the arguments of call `index`."""

    index: int
    json: str


Found = TextFound | CallFound | ArgumentsFound


def argument_names(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """What the arguments of a tool are called, in the order of the JSON Schema that it has for them."""
    properties = parameters.get("properties")
    return tuple(properties) if isinstance(properties, Mapping) else ()


class _Done(Exception):
    """The only call that is wanted is complete."""


class ToolCallScanner:
    """Separates calls from text, given piece by piece; reports each part as soon as it is certain.

    What is reported adds up to the same whatever the pieces are, and nothing is taken back. The work is in
    proportion to the text's length.
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        parameters: Mapping[str, Sequence[str]] | None = None,
        strict: Collection[str] = (),
        functions: Collection[str] = (),
        one_call: bool = False,
        whole_calls: bool = False,
    ) -> None:
        """Prepares for an answer.

        Args:
            names: the tools on offer.
            parameters: what their arguments are called, in order, for calls that give them by place.
            strict: those of them whose arguments decoding holds to a schema; calls in forms that it does not
                hold are none.
            functions: those of the strict ones that it holds in Python's form, too.
            one_call: the answer ends behind the first call.
            whole_calls: no call is reported before its arguments are complete, for an answer that may end
                within them.
        """
        self._one_call = one_call
        self._whole_calls = whole_calls
        self._source = GrowingText()
        self._text = AnswerText()
        self._held = (
            HeldArguments(strict_spellings(names, strict), strict_spellings(names, functions))
            if strict
            else None
        )
        held = dict.fromkeys(strict, self._held.begin_at) if self._held else {}
        self._reader = CallReader(self._source, names, parameters or {}, self, held)
        self._code = QuotedCode(self._source)
        self._calls = 0
        self._begun = ""  # the name of a call whose arguments are awaited
        self._arguments: list[str] = []  # of the last call, not reported
        self._pending: list[Call] = []  # calls that are some if what follows is none of other statements
        self._found: list[Found] = []
        self._done = False
        self._steps = self._read()

    @property
    def done(self) -> bool:
        """Whether the only call that was wanted is complete; whatever follows is dropped."""
        return self._done

    @property
    def cut_off(self) -> bool:
        """Whether the answer has ended within a call's arguments."""
        return self._source.ended and self._reader.within

    @property
    def within_reported(self) -> bool:
        """Whether the last call that was reported is not complete yet."""
        return bool(self._begun) and not self._whole_calls

    @property
    def held(self) -> int:
        """Characters of text that are not reported, as they may belong to a call."""
        return self._source.held + self._text.held

    def feed(self, text: str) -> list[Found]:
        """Takes the next piece of the answer; returns what has become certain."""
        if self._held is not None:
            self._held.feed(text)
        self._source.add(text)
        return self._resume()

    def finish(self) -> list[Found]:
        """The answer has ended; returns the rest. What has not become a call by now is text."""
        self._source.ended = True
        return self._resume()

    def _resume(self) -> list[Found]:
        if self._done:
            return []
        try:
            next(self._steps, None)
        except _Done:
            self._done = True
        if self._source.ended and not self._done:
            self._text.end()
        if not (self._begun and self._whole_calls):
            self._report_arguments()
        self._report_text()
        found, self._found = self._found, []
        return found

    # What CallReader needs where objects make calls.

    def begin(self, name: str, arguments: list[str]) -> None:
        """A call's arguments begin; what is appended to `arguments` up to `end` is their JSON text."""
        self._report_pending()
        self._begun, self._arguments = name, arguments
        if not self._whole_calls:
            self._report_call(name)

    def end(self) -> None:
        """They are complete."""
        if self._whole_calls:
            self._report_call(self._begun)
        self._begun = ""
        self._source.drop()
        self._report_arguments()
        if self._one_call:
            raise _Done

    def read_list(self, *, fenced: bool = True) -> Steps[None]:
        """Reads a list of calls. Those count whose end is seen, although what follows is no call."""
        source = self._source
        source.at += 1
        before = self._calls
        while True:
            yield from self._between_elements(fenced=fenced)
            char = yield from source.need()
            if char == "]" and self._calls > before:
                break
            if char == "{":
                yield from self._reader.object()
                yield from self._between_elements(fenced=fenced)
            else:
                yield from self._element(fenced=fenced)
            if not (yield from source.skips(",")):
                break
        if (yield from source.peek()) not in ("", "]"):
            raise NoCall
        yield from source.skips("]")
        source.drop()

    def _report_pending(self) -> None:
        pending, self._pending = self._pending, []
        for call in pending:
            self.begin(call.name, [call.arguments])
            self.end()

    def _report_call(self, name: str) -> None:
        """Reports a call; what has been read since the last one was a part of how it is written."""
        self._source.drop()
        self._text.add_call()
        self._report_text()
        self._found.append(CallFound(self._calls, name))
        self._calls += 1

    def _report_arguments(self) -> None:
        if text := "".join(self._arguments):
            self._found.append(ArgumentsFound(self._calls - 1, text))
        self._arguments.clear()

    def _report_text(self) -> None:
        if text := self._text.take():
            self._found.append(TextFound(text))

    # Each step reads on; what is read is held until it is reported as a call, or added to the text.

    def _read(self) -> Steps[None]:
        while (yield from self._to_candidate()):
            calls = self._calls
            try:
                yield from self._form()
                written = self._source.take()
                self._text.add(written[len(written.rstrip()) :])
            except NoCall:
                self._pending.clear()
                # A character at least is text, or it would be looked at again.
                self._text.add(self._source.take() or (yield from self._one_character()))
            except CutOff:
                self._report_pending()
                rest = self._source.take()
                # Behind calls, it is a piece of how they are written.
                if calls == self._calls:
                    self._text.add(rest)

    def _one_character(self) -> Steps[str]:
        yield from self._source.next()
        return self._source.take()

    def _to_candidate(self) -> Steps[bool]:
        """Reads text up to where calls may begin; returns whether there is such a place."""
        source = self._source
        while char := (yield from source.peek()):
            if self._text.starts_line and char in " \t":
                source.match(_INDENT)
            elif self._code.ticks:
                yield from self._code.read_on(char, starts_line=self._text.starts_line)
            elif char in _MARKS or (self._text.starts_line and _NAME_START.match(char)):
                return True
            else:
                source.match(_PLAIN)
            self._text.add(source.take())
        return False

    def _form(self) -> Steps[None]:
        """Reads what may be calls, up to their end."""
        match (yield from self._source.need()):
            case "`":
                yield from self._fence()
            case "<":
                yield from self._tagged()
            case "[":
                yield from self.read_list(fenced=False)
            case "{":
                yield from self._objects()
            case _:
                yield from self._lines()

    def _fence(self) -> Steps[None]:
        """A fenced block of calls only; if it is another one, all of it is text."""
        source, code = self._source, self._code
        yield from code.begin(starts_line=self._text.starts_line)
        if code.ticks < FENCE:
            raise NoCall
        label = (yield from source.beginning(_LABEL, lambda start: len(start) <= _LABEL_LENGTH)).lower()
        yield from source.run(BLANKS)
        if (yield from source.skips("\n")):
            code.begin_block()
        if label not in (*_LABELS, *_CALL_LABELS):
            raise NoCall
        yield from self._items(code.ticks, only_calls=label in _CALL_LABELS)
        code.end()

    def _tagged(self) -> Steps[None]:
        """Calls between tags; the closing one may be missing at the answer's end."""
        if (yield from self._tag()):
            raise NoCall
        yield from self._items(0, only_calls=True)

    def _tag(self) -> Steps[bool]:
        """Reads a tag; returns whether it is a closing one."""
        source = self._source
        source.at += 1
        closing = yield from source.skips("/")
        yield from source.word(_LABEL, _TAGS)
        yield from source.expect(">")
        return closing

    def _items(self, ticks: int, *, only_calls: bool) -> Steps[None]:
        """The calls of a fenced block up to so many backticks, or, with none, up to a closing tag.

        With `only_calls` nothing else is ever written there, so that results of calls may be printed, too.
        """
        source, before, closed = self._source, self._calls + len(self._pending), False
        variables: set[str] = set()
        while True:
            if closed:
                yield from source.run(SPACE)
            else:
                yield from self._gap(separated=self._calls + len(self._pending) > before)
            char = yield from source.peek()
            if not char or (char == "`" and ticks) or (closed and char != "<"):
                break
            if char == "`":
                yield from self._fence()
            elif char == "<":
                closed = (yield from self._tag()) and not ticks
                if closed:
                    self._report_pending()
                    if self._calls > before:
                        source.drop()
            elif char == "{":
                yield from self._reader.object()
            elif char == "[":
                yield from self.read_list()
            else:
                yield from self._reader.statement(self._pending, variables if only_calls else set())
                yield from self._end_of_statement()
        if ticks and char == "`" and len((yield from source.run(TICKS))) < ticks:
            yield from source.need()
            raise NoCall
        if self._calls + len(self._pending) == before:
            raise NoCall
        self._report_pending()

    def _end_of_statement(self) -> Steps[None]:
        """Whether a statement of a block is one to its end."""
        yield from self._source.run(BLANKS)
        char = yield from self._source.peek()
        if char and char not in "\n;,#`<":
            raise NoCall

    def _gap(self, *, separated: bool) -> Steps[None]:
        """Reads white space and comments between calls, and what may separate them."""
        source = self._source
        while True:
            yield from source.run(SPACE)
            char = yield from source.peek()
            if char and char in ",;" and separated:
                source.at += 1
            elif char == "#":
                yield from source.run(_REST_OF_LINE)
            elif char == "/":
                source.at += 1
                if (yield from source.need()) != "/":
                    raise NoCall
                yield from source.run(_REST_OF_LINE)
            else:
                return

    def _element(self, *, fenced: bool) -> Steps[None]:
        """A Python call in a list."""
        name = yield from self._reader.name()
        call = yield from self._reader.call(name)
        yield from self._between_elements(fenced=fenced)
        if (yield from self._source.peek()) not in ("", ",", "]"):
            raise NoCall
        self._pending.append(call)
        self._report_pending()

    def _between_elements(self, *, fenced: bool) -> Steps[None]:
        if fenced:
            yield from self._gap(separated=False)
        else:
            yield from self._source.run(SPACE)

    def _objects(self) -> Steps[None]:
        """An object, or several, with commas or semicolons between them or nothing."""
        source = self._source
        while True:
            yield from self._reader.object()
            yield from source.run(SPACE)
            if (yield from source.skips(",")) or (yield from source.skips(";")):
                yield from source.run(SPACE)
                yield from source.need()
            elif (yield from source.peek()) != "{":
                return
            if source.text[source.at] != "{":
                raise NoCall

    def _lines(self) -> Steps[None]:
        """Lines of Python calls: a paragraph of their own, or the answer's last lines."""
        source = self._source
        own_paragraph = self._text.starts_paragraph
        while True:
            yield from self._line()
            if not (yield from source.skips("\n")):
                break
            yield from source.run(BLANKS)
            if own_paragraph and (yield from source.peek()) == "\n":
                break
            yield from source.run(SPACE)
            char = yield from source.peek()
            if not char:
                break
            if char in _MARKS:
                # These calls count if those do.
                yield from self._form()
                break
        self._report_pending()

    def _line(self) -> Steps[None]:
        """A line's calls, up to its end."""
        source = self._source
        while True:
            yield from self._reader.statement(self._pending, None)
            yield from source.run(BLANKS)
            separated = (yield from source.skips(";")) or (yield from source.skips(","))
            yield from source.run(BLANKS)
            if (yield from source.peek()) in ("\n", ""):
                return
            if not separated:
                raise NoCall
