"""The text between an answer's calls."""


class AnswerText:
    """Gathers text; leaves out white space next to calls, and knows where lines and paragraphs begin.

    Attributes:
        starts_line: whether nothing but blanks precedes in the line.
    """

    def __init__(self) -> None:
        self.starts_line = True
        self._found: list[str] = []
        self._space: list[str] = []  # white space that is dropped if a call follows
        self._behind_call = False
        self._first = True  # whether there is no text behind the last call, or at all
        self._newlines = 0  # behind the last text

    @property
    def starts_paragraph(self) -> bool:
        """Whether no text precedes in the paragraph; calls are none."""
        return self._first or self._newlines > 1

    @property
    def held(self) -> int:
        """Characters that were added and not taken."""
        return sum(map(len, (*self._found, *self._space)))

    def add(self, text: str) -> None:
        """Appends text."""
        kept = text.rstrip()
        space = text[len(kept) :]
        self._follow_lines(kept, space)
        if self._behind_call:
            if not kept:
                return
            self._behind_call = False
            kept = kept.lstrip()
        if kept:
            self._found += (*self._space, kept)
            self._space.clear()
        if space:
            self._space.append(space)

    def _follow_lines(self, kept: str, space: str) -> None:
        if kept:
            self._first = self.starts_line = False
            self._newlines = 0
        self._newlines += space.count("\n")
        line = space.rpartition("\n")[2]
        self.starts_line = ("\n" in space or self.starts_line) and not line.strip(" \t")

    def add_call(self) -> None:
        """A call is here."""
        self._behind_call = self._first = True
        self.starts_line = False
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
