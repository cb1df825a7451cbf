"""Pages for readers: the files, modules and targets that they name are there, and each page is linked."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("bench", "clients", "constraints", "csrc", "deploy", "docs", "protos", "service", "tests", "tools")
SKIPPED = {"node_modules", "__pycache__", "generated", "build"}
MAP = (ROOT / "ARCHITECTURE.md").read_text()


def files() -> list[str]:
    """Of the tree, by their paths from its root."""
    found = []
    for top in TOP:
        for folder, folders, names in os.walk(ROOT / top):
            folders[:] = [name for name in folders if name not in SKIPPED]
            found += [str((Path(folder) / name).relative_to(ROOT)) for name in names]
    return found


FILES = files()
PAGES = {
    path: (ROOT / path).read_text()
    for path in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"]
    + [path for path in FILES if path.endswith(".md") and "/." not in path]
}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    text = PAGES[page]
    makefile = (ROOT / "Makefile").read_text()
    paths = re.findall(rf"`((?:{'|'.join(TOP)})/[\w./-]+)`", text)
    links = [str(Path(page).parent / link) for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    modules = re.findall(r"python -m ((?:bench|tests|tools|octet)(?:\.\w+)+)", text)
    targets = re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)
    assert [path for path in paths + links if not (ROOT / path).exists()] == []
    assert [module for module in modules if not is_run(module)] == []
    assert [target for target in targets if not re.search(f"^{target}:", makefile, re.MULTILINE)] == []


def is_run(module: str) -> bool:
    """Whether `python -m` finds it in the tree."""
    path = module.replace(".", "/")
    return any(f"{top}{path}{end}" in FILES for top in ("", "service/") for end in (".py", "/__main__.py"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_named_by_another(page: str) -> None:
    names = {page, f"`{Path(page).parent}`", f"`{Path(page).parent}/`"}
    assert any(name in text for other, text in PAGES.items() if other != page for name in names)


def test_the_map_names_what_there_is() -> None:
    names = re.findall(r"`([\w/-]+\.(?:py|h|cpp|cuh|md|sh|json|yaml|toml|jinja|txt))`", MAP)
    rows = "\n".join(line for line in MAP.splitlines() if line.startswith("|"))
    folders = [name.rstrip("/") for name in re.findall(r"`([\w/.-]+/)`", rows)]
    top = [path.name for path in ROOT.iterdir()]
    ends = {"/".join(path.split("/")[start:]) for path in FILES for start in range(path.count("/") + 1)}
    parents = {str(parent) for path in FILES for parent in Path(path).parents}
    assert [name for name in names if name not in ends and name not in top] == []
    assert [
        name for name in folders if not any(f"/{parent}".endswith(f"/{name}") for parent in parents)
    ] == []


def test_every_module_has_its_row_in_the_map() -> None:
    rows = "\n".join(line for line in MAP.splitlines() if line.startswith("|"))
    names = set(re.findall(r"[`/](\w+\.py)`", MAP))
    folders = {name.rstrip("/") for name in re.findall(r"`([\w/.-]+/)`", rows)}
    modules = [path for path in FILES if path.startswith("service/octet/") and path.endswith(".py")]
    own = [path for path in modules if not re.search(r"/__\w+__\.py$|^service/octet/(v1|kserve)/", path)]
    lost = [
        path
        for path in own
        if Path(path).name not in names
        and not any(f"/{parent}".endswith(f"/{name}") for parent in Path(path).parents for name in folders)
    ]
    assert lost == []
