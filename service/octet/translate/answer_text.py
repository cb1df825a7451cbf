"""The text between an answer's calls."""


class AnswerText:
    """Gathers text; leaves out white space next to calls, and knows where lines and paragraphs begin.

    Attributes:
        starts_line: whether nothing but blanks precedes in the line.
        starts_paragraph: whether no text precedes in the paragraph; calls are none.
    """

    def __init__(self) -> None:
        self.starts_line = True
        self.starts_paragraph = True
        self._found: list[str] = []
        self._space: list[str] = []  # white space that is dropped if a call follows
        self._behind_call = False
        self._line_is_empty = True

    def add(self, text: str) -> None:
        """Appends text."""
        self._follow_lines(text)
        if self._behind_call:
            text = text.lstrip()
        kept = text.rstrip()
        if kept:
            self._behind_call = False
            self._found += (*self._space, kept)
            self._space.clear()
        if space := text[len(kept) :]:
            self._space.append(space)

    def _follow_lines(self, text: str) -> None:
        before, newline, line = text.rpartition("\n")
        blank = not line.strip(" \t")
        if newline:
            # The line that ended last, with what came of it before.
            ended = before.rpartition("\n")[2] if "\n" in before else before
            ended_empty = not ended.strip() and ("\n" in before or self._line_is_empty)
            self.starts_paragraph = ended_empty or (self.starts_paragraph and not before.strip())
            self.starts_line = self._line_is_empty = blank
        else:
            self.starts_line = self.starts_line and blank
            self._line_is_empty = self._line_is_empty and blank
        self.starts_paragraph = self.starts_paragraph and blank

    def add_call(self) -> None:
        """A call is here."""
        self._behind_call = self.starts_paragraph = True
        self.starts_line = self._line_is_empty = False
        self._space.clear()

    def take(self) -> str:
        """What has been added since the last time, without white space that a call may follow."""
        found = "".join(self._found)
        self._found.clear()
        return found

    def end(self) -> None:
        """No call follows."""
        self._found += self._space
        self._space.clear()
