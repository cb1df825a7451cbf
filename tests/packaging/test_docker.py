"""The Dockerfile, read by BuildKit's parser and hadolint: what it copies is there, what ships is right."""

import re
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import dockerfile
import pytest
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("cpu", "cuda")
BUILD_TOOLS = {"g++", "gcc", "make", "cmake", "ninja-build", "python3-dev", "libpython3-dev", "libc6-dev"}
# Triton compiles with them when it starts; the Dockerfile says so.
NEEDED_AT_RUN_TIME = {"cpu": set(), "cuda": {"gcc", "libc6-dev", "libpython3-dev"}}


@dataclass
class Stage:
    """One FROM with what follows; `parent` is another stage's name or an image."""

    name: str
    parent: str
    commands: list[dockerfile.Command] = field(default_factory=list)

    def values(self, instruction: str) -> list[tuple[str, ...]]:
        return [command.value for command in self.commands if command.cmd.upper() == instruction]


def read_stages() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    current = None
    for command in dockerfile.parse_file(str(DOCKERFILE)):
        if command.cmd.upper() == "FROM":
            parent, _, name = command.value
            current = stages[name] = Stage(name, parent)
        elif current is not None:
            current.commands.append(command)
    return stages


STAGES = read_stages()


def lineage(name: str) -> list[Stage]:
    """A stage after those that it is built upon, the first of which is an image's."""
    stage = STAGES[name]
    return [*(lineage(stage.parent) if stage.parent in STAGES else []), stage]


def apt_packages(stage: Stage) -> set[str]:
    installs = [run for (run,) in stage.values("RUN") if "apt-get install" in run]
    words = [re.split(r"&&|;", run.split("apt-get install", 1)[1])[0].split() for run in installs]
    return {word for line in words for word in line if not word.startswith("-")}


def copied(stage: Stage) -> list[tuple[str | None, tuple[str, ...], str]]:
    """Where from (None: the build's context), the sources and the destination of each COPY."""
    copies = []
    for command in stage.commands:
        if command.cmd.upper() == "COPY":
            source = next(
                (flag.partition("=")[2] for flag in command.flags if flag.startswith("--from=")), None
            )
            copies.append((source, command.value[:-1], command.value[-1]))
    return copies


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_stages_are_built_upon_stages_or_the_pinned_base() -> None:
    assert set(TARGETS) <= STAGES.keys()
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert base is not None
    assert re.fullmatch(r"docker\.io/library/debian:\d+\.\d+-slim(@sha256:[0-9a-f]{64})?", base[1])
    seen: set[str] = set()
    for stage in STAGES.values():
        assert stage.parent in seen | {"${BASE}"}, stage.name
        for source, _, _ in copied(stage):
            assert source is None or source in seen
        mounted = [flag for command in stage.commands for flag in command.flags if "from=" in flag]
        assert all(re.search(r"from=([\w-]+)", flag)[1] in seen for flag in mounted)  # type: ignore[index]
        seen.add(stage.name)


def context() -> set[str]:
    """The tracked files that .dockerignore lets in; its rules for these patterns are git's."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ignored = GitIgnoreSpec.from_lines((ROOT / ".dockerignore").read_text().splitlines())
    return {name for name in listed.stdout.splitlines() if not ignored.match_file(name)}


def test_what_is_copied_is_in_the_context() -> None:
    files = context()
    sources = {
        name
        for stage in STAGES.values()
        for source, names, _ in copied(stage)
        if source is None
        for name in names
    }
    assert len(sources) > 5
    for name in sources:
        assert any(file == name or file.startswith(f"{name}/") for file in files), name


def test_what_the_build_reads_is_copied_and_no_more() -> None:
    """What setup.py, the Makefile and the tools name is there; tests, documents and secrets are not."""
    files = context()
    assert {"setup.py", "CMakeLists.txt", "pyproject.toml", "README.md"} <= files
    assert {f"clients/python/{name}" for name in ("pyproject.toml", "setup.py", "README.md")} <= files
    assert "service/octet/demo/model.safetensors" in files
    assert {"service/octet-torchvision-shim.pth", "service/octet-lifeline.pth"} <= set(files)
    others = ("tests/", "docs/", "deploy/", "bench/", ".git", "clients/typescript/")
    assert not [file for file in files if file.startswith(others)]
    for script in ("check_prerequisites.sh", "install_engine.sh", "requirements.py", "drop_build_tools.py"):
        assert f"tools/{script}" in files


def test_a_change_of_sources_leaves_the_engine_alone() -> None:
    for target in TARGETS:
        names = [
            name
            for stage in lineage(f"engine-{target}")
            for _, sources, _ in copied(stage)
            for name in sources
        ]
        assert not {"service", "csrc", "protos", "."} & set(names)


@pytest.mark.parametrize("target", TARGETS)
def test_the_set_up_is_that_of_make(target: str) -> None:
    """Every program that the build runs beside apt is a target of the Makefile or a script of tools/."""
    makefile = (ROOT / "Makefile").read_text()
    runs = [run for stage in ("engine", "build") for (run,) in STAGES[f"{stage}-{target}"].values("RUN")]
    for run in runs:
        command = re.fullmatch(rf"make (\w+) VENV=/opt/octet ENGINE={target}", run)
        assert command, run
        assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE)
    assert STAGES[f"environment-{target}"].values("RUN") == [
        ("/opt/octet/bin/python -m tools.drop_build_tools",)
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_no_build_tools_in_the_image(target: str) -> None:
    packages = {package for stage in lineage(target) for package in apt_packages(stage)}
    assert packages & BUILD_TOOLS == NEEDED_AT_RUN_TIME[target]
    assert "tools" not in [stage.name for stage in lineage(target)]
    froms = [source for stage in lineage(target) for source, _, _ in copied(stage)]
    assert froms == [f"environment-{target}"], (
        "from the environment that build tools were dropped from, alone"
    )


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_runs_octet_unprivileged_and_asks_its_health(target: str) -> None:
    stages = lineage(target)
    last = STAGES[target].commands[-1]
    assert (last.cmd.upper(), last.value) == ("USER", ("10001:10001",))
    assert [value for stage in stages for value in stage.values("ENTRYPOINT")] == [("octet",)]
    (check,) = [value for stage in stages for value in stage.values("HEALTHCHECK")]
    assert check[-2:] == ("octet", "health")


def test_nothing_secret_is_baked_in() -> None:
    for stage in STAGES.values():
        for instruction in ("ARG", "ENV"):
            assert not re.search(r"key|token|secret|password", str(stage.values(instruction)), re.IGNORECASE)
