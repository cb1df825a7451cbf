"""What `octet eval` says of its arguments, before anything is loaded."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from octet.cli.eval import _prompts
from octet.cli.eval import eval as eval_command


@pytest.mark.parametrize("arguments", [["perplexity", "--text"], ["generate", "--prompts"]])
def test_files_and_flags_that_cannot_be_read(tmp_path: Path, arguments: list[str]) -> None:
    latin, good = tmp_path / "latin", tmp_path / "good"
    latin.write_bytes(b"caf\xe9")
    good.write_text("coffee")
    command, option = arguments
    for path, flags, problem in (
        (latin, [], f"{latin} cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (tmp_path / "none", [], f"File '{tmp_path / 'none'}' does not exist."),
        (good, ["--engine-args", "--seed '1"], "--engine-args: No closing quotation"),
    ):
        result = CliRunner().invoke(eval_command, [command, "a", "b", option, str(path), *flags])
        assert result.exit_code == 2
        assert problem in result.stderr


def test_prompts_are_lines_or_what_a_separator_parts() -> None:
    text = "One?\n\n  Two, indented.  \r\nThree\n%%\nFour\nin two lines\n%%\n\n"
    assert _prompts("One?\n\n  Two.  \r\nThree", None) == ["One?", "  Two.  ", "Three"]
    assert _prompts(text, "%%") == ["One?\n\n  Two, indented.  \r\nThree", "Four\nin two lines"]
    assert _prompts(" \n\n", None) == _prompts("", None) == _prompts("%%\n%%", "%%") == []
