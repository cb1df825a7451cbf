"""How much memory pictures may take by default."""

from pathlib import Path

import pytest

from octet.config import ServerConfig
from octet.config import images as images_module
from octet.config.images import ImageMemoryLimits
from octet.config.memory import group_limits, total_memory

MIB = 2**20


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "1000", "a/b/memory.max": "max"}, [1000]),
        (
            "0::/a/b\n",
            {"memory.max": "500", "a/memory.max": "1000", "a/b/memory.max": "700"},
            [700, 1000, 500],
        ),
        # In a container: the path is one outside, its group is the root here.
        ("0::/kubepods/pod1/box\n", {"memory.max": "300\n"}, [300]),
        ("0::/../../box\n", {"memory.max": "300\n"}, [300]),
        (
            "5:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n",
            {
                "memory/docker/1/memory.limit_in_bytes": "900",
                "memory/memory.limit_in_bytes": str(2**63 - 4096),
            },
            [900, 2**63 - 4096],
        ),
        ("0::/\n", {}, []),
        ("", {}, []),
    ],
    ids=["v2", "v2, the least of several", "a container", "a container's namespace", "v1", "none", "no file"],
)
def test_limits_of_control_groups(
    tmp_path: Path, own: str, files: dict[str, str], expected: list[int]
) -> None:
    (tmp_path / "own").write_text(own)
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert group_limits(root, tmp_path / "own") == expected


def test_a_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert group_limits(tmp_path / "none", tmp_path / "neither") == []


def test_this_machine_has_memory() -> None:
    assert total_memory() > 2**28


@pytest.mark.parametrize(
    ("memory", "settings", "expected"),
    [
        (25 * 1024 * MIB, {}, (1024, 512, 512)),
        (2 * 1024 * MIB, {}, (256, 256, 256)),
        (10 * 1024 * MIB, {"max_image_memory": 300 * MIB}, (300, 256, 256)),
        (10 * 1024 * MIB, {"max_image_memory": 100 * MIB}, (100, 100, 100)),
        (25 * 1024 * MIB, {"max_image_memory_per_key": 2048 * MIB}, (1024, 1024, 1024)),
        (25 * 1024 * MIB, {"max_image_memory_per_request": 40 * MIB}, (1024, 512, 40)),
        (25 * 1024 * MIB, {"max_image_memory_per_request": 900 * MIB}, (1024, 512, 512)),
    ],
)
def test_what_is_not_said_follows_from_the_machine(
    monkeypatch: pytest.MonkeyPatch, memory: int, settings: dict[str, int], expected: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(images_module, "total_memory", lambda: memory)
    limits = ServerConfig(**settings).image_memory  # type: ignore[arg-type]
    assert limits == ImageMemoryLimits(*(size * MIB for size in expected))
