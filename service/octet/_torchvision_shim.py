"""Lets a CUDA build of torchvision be imported beside a torch without CUDA.

torchvision's Python code registers fake kernels for operators that its compiled library defines. Where that
library cannot load, the import of the whole package dies with "operator torchvision::nms does not exist",
although everything that is not a detection operator would work. Declaring the schemas of the two operators
first is enough.

`install` runs at every interpreter start (through `octet-torchvision-shim.pth`), in child processes too, so
this module imports nothing but sys until somebody imports torchvision.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# The registration lasts as long as this torch.library.Library does.
_library = None


class _Finder:
    """Lets the other finders find torchvision, and prepares torch just before it runs."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None or not spec.submodule_search_locations:
            return spec
        run, folders = spec.loader.exec_module, list(spec.submodule_search_locations)

        def exec_module(module):  # type: ignore[no-untyped-def]
            declare_missing_operators(folders)
            run(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Puts the finder first; a second call does nothing."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


def library_loads(folders: list[str]) -> bool:
    """Whether the compiled library of the torchvision in `folders` can be loaded beside this torch."""
    from importlib.machinery import EXTENSION_SUFFIXES
    from pathlib import Path

    import torch

    for folder in folders:
        for suffix in EXTENSION_SUFFIXES:
            library = Path(folder, "_C" + suffix)
            if library.is_file():
                try:
                    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
                except OSError:
                    return False
                return True
    return False


def declare_missing_operators(folders: list[str]) -> bool:
    """Declares the operators when torch has no CUDA and torchvision's library does not load; says whether."""
    global _library
    import torch

    if _library is not None or torch.version.cuda or torch.version.hip or library_loads(folders):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        # Somebody else may have met the same trap and declared one.
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call]
    _library = library
    return True
