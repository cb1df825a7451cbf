"""Writes the golden files of `octet quantize`: small checkpoints, and what llm-compressor makes of them.

    build/oracle/bin/python -m tools.quantize_oracle.golden tests/quantize/golden

Runs in the environment that `make oracle` sets up.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from tools.quantize_oracle.compress import compress
from tools.quantize_oracle.sources import SOURCES, write_source


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    shutil.rmtree(directory, ignore_errors=True)
    for source in SOURCES:
        write_source(source, directory / source.name / "source")
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary)
            compress(directory / source.name / "source", made)
            shutil.copyfile(made / "model.safetensors", directory / source.name / "model.safetensors")
            description = json.loads((made / "config.json").read_text())["quantization_config"]
            text = json.dumps(description, indent=2) + "\n"
            (directory / source.name / "quantization_config.json").write_text(text)


if __name__ == "__main__":
    main()
