"""The server's wheel holds what the client's does not; both work in an environment with the engine alone."""

import json
import os
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, build_wheel, names_in


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT / "clients" / "python", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("server"))


def test_wheel_holds_code_kernels_and_checkpoint(wheel: Path) -> None:
    assert wheel.name.startswith("octet_serve-")
    names = zipfile.ZipFile(wheel).namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert f"octet/_C{suffix}" in names
    assert f"octet/_C_weights{suffix}" in names
    assert "octet/demo/model.safetensors" in names
    assert "octet/demo/chat_template.jinja" in names
    for name in ("octet-torchvision-shim.pth", "octet-lifeline.pth"):
        assert any(path.endswith(f"/{name}") for path in names)
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]


def test_each_file_of_the_package_is_in_one_wheel(wheel: Path, client: Path) -> None:
    assert not names_in(wheel) & names_in(client)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "service/octet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    tracked = {name.removeprefix("service/") for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked <= names_in(wheel) | names_in(client)


def test_wheel_registers_the_plugin_and_the_client_the_command(wheel: Path, client: Path) -> None:
    assert _entry_points(wheel) == "[vllm.general_plugins]\noctet = octet.engine.vllm.plugin:register\n"
    assert _entry_points(client) == "[console_scripts]\noctet = octet.__main__:main\n"


def _entry_points(wheel: Path) -> str:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    return archive.read(name).decode()


def test_installed_wheels_run(wheel: Path, client: Path, tmp_path: Path) -> None:
    """A new environment that sees this one's libraries, but not its editable install of Octet."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith("octet"):
            (libraries / entry.name).symlink_to(entry)
    new = Environment(tmp_path / "venv")
    new.install(wheel, client)
    environment = os.environ | {"PYTHONPATH": str(libraries)}

    shown = subprocess.run(
        [new.bin / "octet", "doctor", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    report = json.loads(shown.stdout)
    assert report["kernels"]["isa"], shown.stderr
    where = subprocess.run(
        [new.python, "-c", "import octet; print(octet.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in where.stdout
