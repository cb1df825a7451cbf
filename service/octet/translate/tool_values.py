"""Arguments of calls as models write them, in JSON, in Python or in a mixture, put into JSON as they come.

What is JSON is left as it is, character by character. The rest is made JSON: strings in single or triple
quotes, raw strings, Python's escapes, line breaks in strings, `True`, `False` and `None`, Python's numbers,
tuples, and commas behind the last element. White space and comments in a Python call are put in order.
Nothing is evaluated.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence

from octet.translate.growing_text import CutOff, GrowingText, NoCall, Steps, Words

# Deeper ones are no Python call; those of an object are passed on as they are.
MAX_DEPTH = 64
MAX_CODE = 0x10FFFF

_WORDS = {"True": "true", "true": "true", "False": "false", "false": "false", "None": "null", "null": "null"}
_PREFIXES = "rRuU"
_WORD_STARTS = Words([*_WORDS, *_PREFIXES])
_JSON_NUMBER = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FRACTION = re.compile(r"[.eE]")
# What a number consists of; nothing else that models write starts with one of these.
_NUMBER_STARTS = frozenset("+-.0123456789")
_DIGITS = re.compile(r"[0-9A-Za-z_.]*")
_NUMBER_WITH_EXPONENT = re.compile(r"[0-9_.]+[eE]")
_LETTERS = re.compile(r"[A-Za-z]*")
_KEYWORD = re.compile(r"[\w.-]*")
_KEYWORD_START = re.compile(r"[^\W\d]")
_SPACE = re.compile(r"[ \t\r\n]*")
_LINE = re.compile(r"[^\n]*")
_PLAIN = re.compile(r"[^\"'\\\x00-\x1f]*")
_MARKS = re.compile(r"[^\"'\[\]{}]*")
_QUOTED = re.compile(r"[^\"'\\]*")
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")
_NAME_OF_CHARACTER = re.compile(r"[A-Za-z0-9 -]*")
_ESCAPES = {char: "\\" + char for char in 'nrtbf"\\'} | {
    "'": "'",
    "\n": "",
    "a": "\\u0007",
    "v": "\\u000b",
}


class ValueReader:
    """Reads values and writes them as JSON.

    Attributes:
        out: the JSON text so far, in pieces; they may be taken away as they come.
    """

    def __init__(self, source: GrowingText, *, python: bool) -> None:
        """With `python` the values are the arguments of a Python call, else they are those of an object."""
        self.out: list[str] = []
        self._source = source
        self._python = python
        self._depth = 0
        self._tuples = 0  # so many of these brackets are those of tuples
        self._by_name = False  # whether an argument had a keyword
        self._quote = ""  # within a string: what ends it

    def arguments(self, names: Sequence[str]) -> Steps[None]:
        """Reads a Python call's arguments from the opening bracket on to the closing one; writes an object.

        Args:
            names: what arguments without a keyword are called, in order.

        Raises:
            NoCall, CutOff
        """
        given: set[str] = set()
        self.out.append("{")
        yield from self._elements(")", lambda: self._argument(names, given))
        self.out.append("}")

    def mapping(self) -> Steps[None]:
        """Reads an object from its brace on to the closing one.

        Raises:
            NoCall, CutOff
        """
        self.out.append("{")
        yield from self._elements("}", self.member)
        self.out.append("}")

    def rest_as_it_is(self) -> Steps[None]:
        """Goes on behind what raised NoCall, and writes what comes as it is, up to what closes the object.

        Raises:
            CutOff
        """
        source = self._source
        self._depth -= self._tuples
        while self._depth:
            pattern = _QUOTED if self._quote else _MARKS
            self.out.append(source.match(pattern))
            if pattern.fullmatch((yield from source.need())):
                continue  # more has come of the same kind
            char = yield from source.next()
            self.out.append(char)
            if self._quote:
                if char == "\\":
                    self.out.append((yield from source.next()))
                elif char == self._quote:
                    self._quote = ""
            elif char in "\"'":
                self._quote = char
            else:
                self._depth += 1 if char in "[{" else -1

    def value(self) -> Steps[None]:
        """Reads a value.

        Raises:
            NoCall, CutOff
        """
        char = yield from self._source.need()
        match char:
            case '"' | "'":
                yield from self._strings("")
            case "[":
                self.out.append("[")
                yield from self._elements("]", self.value)
                self.out.append("]")
            case "{":
                yield from self.mapping()
            case "(":
                yield from self._tuple()
            case _ if char in _NUMBER_STARTS:
                yield from self._number()
            case _:
                word = yield from self._source.beginning(_LETTERS, _WORD_STARTS.begin_with)
                yield from self._word(word)

    def _elements(self, close: str, element: Callable[[], Steps[None]]) -> Steps[tuple[int, bool]]:
        """Reads brackets and what is between them, with commas; writes the latter.

        Returns:
            How many elements there are, and whether a comma follows the last one.
        """
        source = self._source
        source.at += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NoCall
        count, comma, separator = 0, True, ""
        self.out.append((yield from self._space()))
        while (yield from source.need()) != close:
            if not comma:
                raise NoCall
            self.out.append(separator)
            yield from element()
            count += 1
            space = yield from self._space()
            comma = yield from source.skips(",")
            self.out.append(space)
            separator = "," + ((yield from self._space()) or " " * self._python) if comma else ""
        source.at += 1
        self._depth -= 1
        return count, comma

    def _space(self) -> Steps[str]:
        """Reads white space, in a Python call also comments; what is left of it in JSON."""
        space = yield from self._source.run(_SPACE)
        if not self._python:
            return space
        while (yield from self._source.skips("#")):
            yield from self._source.run(_LINE)
            yield from self._source.run(_SPACE)
        return ""

    def _argument(self, names: Sequence[str], given: set[str]) -> Steps[None]:
        """One argument of a Python call."""
        source = self._source
        word = ""
        if _KEYWORD_START.match((yield from source.need())):
            word = yield from source.run(_KEYWORD)
            yield from self._space()
            if (yield from source.need()) == "=":
                source.at += 1
                self._by_name = True
                self._name(word, given)
                yield from self._space()
                yield from self.value()
                return
        # Its place tells its name; none comes behind a keyword.
        if self._by_name or len(given) == len(names):
            raise NoCall
        self._name(names[len(given)], given)
        yield from self._word(word) if word else self.value()

    def _name(self, name: str, given: set[str]) -> None:
        if name in given:
            raise NoCall
        given.add(name)
        self.out.append(f"{_dump(name)}: ")

    def member(self) -> Steps[None]:
        """Reads a key and its value.

        Raises:
            NoCall, CutOff
        """
        char = yield from self._source.need()
        prefix = (yield from self._source.next()) if self._python and char in _PREFIXES else ""
        if (yield from self._source.need()) not in "\"'":
            raise NoCall
        yield from self._strings(prefix)
        self.out.append((yield from self._space()))
        yield from self._source.expect(":")
        self.out.append(":" + ((yield from self._space()) or " " * self._python))
        yield from self.value()

    def _tuple(self) -> Steps[None]:
        """A tuple, which becomes a list, or a value in brackets."""
        outer, self.out = self.out, []
        self._tuples += 1
        try:
            count, comma = yield from self._elements(")", self.value)
        except NoCall:
            outer += ["(", *self.out]
            self.out = outer
            raise
        self._tuples -= 1
        inner, self.out = self.out, outer
        self.out += inner if count == 1 and not comma else ["[", *inner, "]"]

    def _word(self, word: str) -> Steps[None]:
        """A word that is a value, or the letter before a string, has been read."""
        if len(word) == 1 and word in _PREFIXES and (yield from self._source.peek()) in ('"', "'"):
            yield from self._strings(word)
        elif word in _WORDS:
            self.out.append(_WORDS[word])
        else:
            yield from self._refuse(word)

    def _number(self) -> Steps[None]:
        sign = (yield from self._source.next()) if (yield from self._source.need()) in "+-" else ""
        digits = yield from self._source.run(_DIGITS)
        if _NUMBER_WITH_EXPONENT.fullmatch(digits) and (yield from self._source.peek()) in ("+", "-"):
            digits += (yield from self._source.next()) + (yield from self._source.run(_DIGITS))
        number = _to_json_number(digits, python=self._python)
        if number is None:
            yield from self._refuse(sign + digits)
        else:
            self.out.append(sign.replace("+", "") + number)

    def _refuse(self, read: str) -> Steps[None]:
        """Says that what was read is no value; it is a part of what the model wrote all the same.

        Raises:
            NoCall
            CutOff: it may have become one.
        """
        self.out.append(read)
        yield from self._source.need()
        raise NoCall

    def _strings(self, prefix: str) -> Steps[None]:
        """A string, or in Python several, which are one."""
        self.out.append('"')
        yield from self._string(raw=prefix in ("r", "R"))
        while self._python:
            yield from self._space()
            char = yield from self._source.peek()
            if char in ('"', "'"):
                yield from self._string(raw=False)
            elif char and char in _PREFIXES:
                self._source.at += 1
                if (yield from self._source.need()) not in "\"'":
                    raise NoCall
                yield from self._string(raw=char in "rR")
            else:
                break
        self.out.append('"')

    def _string(self, *, raw: bool) -> Steps[None]:
        """A string's content, from the opening quotes on to the closing ones."""
        source = self._source
        quote = yield from source.next()
        length = 1
        if self._python and (yield from source.skips(quote)):
            if not (yield from source.skips(quote)):
                return
            length = 3
        self._quote = quote
        while True:
            self.out.append(source.match(_PLAIN))
            char = yield from source.need()
            if _PLAIN.fullmatch(char):
                continue  # more has come of the same kind
            source.at += 1
            if char == "\\":
                yield from self._escape(raw=raw)
            elif char == quote:
                found = 1
                while found < length and (yield from source.skips(quote)):
                    found += 1
                if found == length:
                    break
                self.out.append(found * _in_json(quote))
            elif char == "\n" and length == 1 and self._python:
                raise NoCall
            else:
                self.out.append(_in_json(char))
        self._quote = ""

    def _escape(self, *, raw: bool) -> Steps[None]:
        """What a backslash and what follows it mean."""
        char = yield from self._source.next()
        if raw:
            self.out.append("\\\\" + _in_json(char))
        elif char in _ESCAPES:
            self.out.append(_ESCAPES[char])
        elif char == "/" and not self._python:
            self.out.append("\\/")
        elif char == "u":
            self.out.append("\\u" + (yield from self._hex(char, 4)))
        elif char in "xU":
            digits = yield from self._hex(char, 2 if char == "x" else 8)
            if int(digits, 16) > MAX_CODE:
                yield from self._refuse(f"\\{char}{digits}")
            self.out.append(_character(int(digits, 16)))
        elif char in _OCTAL:
            while len(char) < 3 and (digit := (yield from self._source.peek())) and digit in _OCTAL:
                self._source.at += 1
                char += digit
            self.out.append(_character(int(char, 8)))
        elif char == "N":
            yield from self._named_character()
        else:
            self.out.append("\\\\" + _in_json(char))

    def _hex(self, letter: str, count: int) -> Steps[str]:
        digits = ""
        while len(digits) < count:
            if (yield from self._source.need()) not in _HEX:
                yield from self._refuse(f"\\{letter}{digits}")
            digits += yield from self._source.next()
        return digits

    def _named_character(self) -> Steps[None]:
        name = "\\N"
        if (yield from self._source.skips("{")):
            name += "{" + (yield from self._source.run(_NAME_OF_CHARACTER))
        try:
            self.out.append(_in_json(unicodedata.lookup(name[3:])))
        except KeyError:
            yield from self._refuse(name)
        yield from self._source.expect("}")


def object_of_text(text: str) -> str:
    """The JSON text of an object that `text` is, in JSON or in Python; none at all is an empty one.

    Raises:
        NoCall: it is something else.
        CutOff: it is the beginning of one.
    """
    source = GrowingText()
    source.add(text.strip() or "{}")
    source.ended = True
    if not source.text.startswith("{"):
        raise NoCall
    reader = ValueReader(source, python=False)
    for _ in reader.mapping():
        raise AssertionError("waits for more of a text that has ended")
    if source.at < len(source.text):
        raise NoCall
    return "".join(reader.out)


def is_cut_off(arguments: str) -> bool:
    """Whether the JSON text of a call's arguments ends before they do."""
    try:
        object_of_text(arguments)
    except CutOff:
        return True
    except NoCall:
        return False
    return not arguments


def _to_json_number(digits: str, *, python: bool) -> str | None:
    """A number without its sign in JSON, None if it is none; in Python, only finite ones are."""
    finite_only = python
    try:
        if _JSON_NUMBER.fullmatch(digits):
            number, text = float(digits) if _FRACTION.search(digits) else 0, digits
        else:
            finite_only = True
            whole = digits[:2].lower() == "0x" or not _FRACTION.search(digits)
            number = int(digits, 0) if whole else float(digits)
            text = repr(number)
    except ValueError:
        return None
    return None if finite_only and number - number != 0 else text


def _dump(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_json(char: str) -> str:
    """A character as it stands in a JSON string."""
    return _dump(char)[1:-1]


def _character(code: int) -> str:
    """The character of a code as it stands in a JSON string; half of one stays an escape."""
    return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else _in_json(chr(code))
