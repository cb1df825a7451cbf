"""The checkpoint that ships with Octet; its README.md says what it is."""

import pathlib

PATH = pathlib.Path(__file__).parent
"""The directory of the model's files, as `octet serve` and vLLM take it."""
