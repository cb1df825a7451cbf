import asyncio
import logging
import os
from pathlib import Path

import pytest

from octet.errors import StartupError
from octet.server import reload
from octet.server.reload import Reloader, Watched, signature


class Loads:
    """Counts loads; fails when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.problem = ""
        self.outcomes: list[bool] = []

    def __call__(self) -> None:
        self.count += 1
        if self.problem:
            raise StartupError(self.problem)


def watched(load: Loads, *paths: Path) -> Watched:
    names = [str(path) for path in paths]
    return Watched("keys", names, load, load.outcomes.append, signature(names), signature(names))


def test_a_change_is_loaded_once_the_files_are_left_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("1")
    load = Loads()
    files = watched(load, first, second)
    for change in (
        lambda: None,
        lambda: first.write_text("22"),
        lambda: second.write_text("1"),
    ):
        change()
        files.look()
        assert load.count == 0
    files.look()
    files.look()
    assert load.count == 1


def test_what_cannot_be_loaded_is_one_line_and_tried_again_after_a_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a"
    load = Loads()
    files = watched(load, file)
    load.problem = "a: is broken"
    file.write_text("x")
    for _ in range(4):
        files.look()
    assert [record.message for record in caplog.records] == ["keys stay as they were: a: is broken"]
    load.problem = ""
    file.write_text("whole")
    with caplog.at_level(logging.INFO, "octet"):
        files.look()
        files.look()
    assert load.count == 2
    assert caplog.records[-1].message == "keys reloaded"
    assert load.outcomes == [True, False]


def test_kubernetes_replaces_files_by_swapping_a_link(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text("same size")
        os.utime(tmp_path / version / "keys", (1, 1))
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "keys").symlink_to("..data/keys")
    load = Loads()
    files = watched(load, tmp_path / "keys")
    (tmp_path / "..new").symlink_to("2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    files.look()
    files.look()
    assert load.count == 1


async def test_the_first_load_fails_aloud_and_later_ones_follow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    file = tmp_path / "a"
    outcomes: list[tuple[str, bool]] = []
    reloader = Reloader(lambda *outcome: outcomes.append(outcome))
    load = Loads()
    load.problem = "broken"
    with pytest.raises(StartupError, match="broken"):
        reloader.load("keys", [str(file)], load)
    await asyncio.wait_for(reloader.run(), 1)  # there is nothing to watch

    loaded = asyncio.Event()
    loop = asyncio.get_running_loop()
    contents: list[str] = []

    def read() -> None:
        contents.append(file.read_text())
        loop.call_soon_threadsafe(loaded.set)

    file.write_text("old")
    reloader.load("keys", [str(file)], read)
    await loaded.wait()
    loaded.clear()
    running = asyncio.ensure_future(reloader.run())
    await asyncio.sleep(0)
    file.write_text("newer")
    await asyncio.wait_for(loaded.wait(), 10)
    running.cancel()
    assert contents == ["old", "newer"]
    assert outcomes[0] == ("keys", False)
