"""How much memory pictures may take by default."""

from pathlib import Path

import pytest

from octet.config import ServerConfig
from octet.config import images as images_module
from octet.config.images import ImageMemoryLimits
from octet.config.memory import available_memory, group_limits, memory_kills, total_memory

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
    root, said, _ = kernel(tmp_path, own, files)
    assert group_limits(root, said) == expected


def kernel(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path, Path]:
    """What a kernel would say: its control groups, which of them is the process's own, and /proc."""
    (folder / "own").write_text(own)
    (folder / "proc").mkdir()
    (folder / "proc/meminfo").write_text(
        "MemTotal:  9000000 kB\nMemAvailable:  5000 kB\nHugePages_Total: 0\n"
    )
    (folder / "proc/vmstat").write_text("nr_free_pages 12\noom_kill 7\n")
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "cgroup", folder / "own", folder / "proc"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a\n", {"a/memory.max": "max", "a/memory.current": "10"}, 5_120_000),
        ("0::/a\n", {"a/memory.max": "1000", "a/memory.current": "400"}, 600),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "1000",
                "a/b/memory.current": "400",
                "a/b/memory.stat": "anon 300\nfile 100\ninactive_file 90\nactive_file 10\n",
                "a/memory.max": "2000",
                "a/memory.current": "1950",
                "a/memory.stat": "inactive_file 20\n",
            },
            70,
        ),
        ("0::/pod/box\n", {"memory.max": "3000", "memory.current": "3500"}, 0),
        (
            "4:memory:/docker/1\n0::/\n",
            {
                "memory/docker/1/memory.limit_in_bytes": "900",
                "memory/docker/1/memory.usage_in_bytes": "500",
                "memory/docker/1/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
            },
            600,
        ),
        ("", {}, 5_120_000),
    ],
    ids=["no limit", "v2", "v2, the group around it has less", "a container, full", "v1", "no groups"],
)
def test_what_is_free_is_what_the_control_group_has_left(
    tmp_path: Path, own: str, files: dict[str, str], expected: int
) -> None:
    assert available_memory(*kernel(tmp_path, own, files)) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a\n", {"a/memory.events": "low 0\noom 5\noom_kill 3\noom_group_kill 0\n"}, 3),
        ("0::/pod/box\n", {"memory.events": "oom_kill 2\n"}, 2),
        (
            "4:memory:/x\n",
            {"memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"},
            4,
        ),
        ("0::/a\n", {}, 7),
    ],
    ids=["v2", "a container", "v1", "the machine"],
)
def test_kills_for_want_of_memory(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    assert memory_kills(*kernel(tmp_path, own, files)) == expected


def test_this_machine_has_free_memory() -> None:
    assert 0 < available_memory() <= total_memory()
    assert memory_kills() >= 0


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
