"""Loads the compiled extension, which registers ``torch.ops.octet``."""

import logging
import os
from pathlib import Path

import torch

try:
    # After torch, whose libraries the extension is linked to.
    from octet import _C as extension
except ImportError as error:
    raise ImportError(
        f"octet's compiled extension cannot be loaded ({error}); "
        "it is built by `pip install .` in a checkout of octet, against the torch that is installed then"
    ) from error

__all__ = ["cuda_loaded", "extension", "log_refused_isas"]

_CUDA_LIBRARY = Path(extension.__file__).with_name("_C_cuda.so")

# An ISA that OCTET_ISA asks for and that cannot be had is an error of the start, not of the first call.
extension.isa()


def log_refused_isas() -> None:
    """Says why CPU kernels that this processor has the instructions for are not used, a line each."""
    for name, reason in extension.refused_isas().items():
        logging.getLogger("octet").warning(
            "the %s kernels are not used: %s; %s are", name, reason, extension.isa()
        )


# Who names an ISA knows which one runs.
if not os.environ.get("OCTET_ISA"):
    log_refused_isas()

# As with an ISA: what says neither is not taken for the one or the other.
_PDL = os.environ.get("OCTET_PDL", "on")
if _PDL not in ("on", "off"):
    raise ValueError(f"OCTET_PDL={_PDL!r} is neither 'on' nor 'off'")

# The CUDA operators need the libraries of a CUDA build of torch.
cuda_loaded: bool = torch.version.cuda is not None and _CUDA_LIBRARY.exists()
if cuda_loaded:
    torch.ops.load_library(_CUDA_LIBRARY)  # type: ignore[no-untyped-call]
