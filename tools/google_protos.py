"""Copies the published protos that ours import to where buf finds them: python tools/google_protos.py DIR."""

import shutil
import sys
from pathlib import Path

from google.api import annotations_pb2, http_pb2


def main() -> None:
    """Copies google/api/annotations.proto and http.proto from the installed package into DIR."""
    target = Path(sys.argv[1]) / "google" / "api"
    target.mkdir(parents=True, exist_ok=True)
    for module in (annotations_pb2, http_pb2):
        source = Path(module.__file__.replace("_pb2.py", ".proto"))
        shutil.copyfile(source, target / source.name)


if __name__ == "__main__":
    main()
