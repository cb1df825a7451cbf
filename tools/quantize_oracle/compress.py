"""Quantizes a checkpoint with llm-compressor's FP8_DYNAMIC: what `octet quantize` has to equal.

    build/oracle/bin/python tools/quantize_oracle/compress.py SRC DST [--ignore LAYERS ...]

Runs in the environment that `make oracle` sets up, and imports nothing of Octet, which is not there.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import transformers
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier

IGNORE = ["lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]


def compress(source: Path, destination: Path, ignore: Sequence[str] = IGNORE) -> None:
    """Writes the quantized checkpoint of `source` to `destination`, both local directories.

    Layers that `ignore` names stay as they are.
    """
    config = json.loads((source / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    model = model_class.from_pretrained(source, dtype="auto")
    oneshot(
        model=model, recipe=QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=list(ignore))
    )
    model.save_pretrained(destination, save_compressed=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--ignore", nargs="*", default=IGNORE, help="layers to leave as they are")
    arguments = parser.parse_args()
    compress(arguments.source, arguments.destination, arguments.ignore)


if __name__ == "__main__":
    main()
