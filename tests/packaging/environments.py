"""Environments to install wheels into, without an index: what they require comes out of this one."""

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(source: Path, out: Path) -> Path:
    """Builds the wheel of a project with this environment's tools."""
    options = ["-q", "--no-build-isolation", "--no-deps", "-w", out]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    """The files that a wheel installs, without those about itself."""
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def metadata_of(wheel: Path) -> Metadata:
    """What a wheel says about itself; raises ExceptionGroup where that breaks the specification."""
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return Metadata.from_email(archive.read(name))


class Environment:
    """An empty environment, with its own `python`."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        (self.packages,) = (folder / "lib").glob("python*/site-packages")

    def pip(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs this environment's pip on that one."""
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def install(self, *wheels: Path) -> None:
        """Installs wheels, and nothing beside them."""
        installed = self.pip("install", "-q", "--no-index", "--no-deps", *wheels)
        assert installed.returncode == 0, installed.stderr

    def link_requirements(self, wheel: Path) -> None:
        """Shows it what `wheel` requires, and what that requires in turn: exactly these, as they are here."""
        for found in _required(metadata_of(wheel).requires_dist or [], {}).values():
            for file in found.files or []:
                if ".." in file.parts or "__pycache__" in file.parts:
                    continue
                link = self.packages / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(found.locate_file(file))).resolve())


def _required(requirements: Iterable[Requirement], found: dict[str, Distribution]) -> dict[str, Distribution]:
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = distribution(name)
        _required([Requirement(line) for line in found[name].requires or []], found)
    return found
