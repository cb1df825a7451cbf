"""The README.md of a quantized checkpoint: how it was made, in the form that the hub reads."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from octet import __version__
from octet.quantize.config import quantization_config
from octet.quantize.options import Options
from octet.quantize.plan import Plan
from octet.quantize.source import Source

if TYPE_CHECKING:
    from octet.quantize.verify import TensorError

CARD = "README.md"
"""The card's file name."""

_INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag")
_WORST_SHOWN = 10


def model_card(source: Source, plan: Plan, options: Options, errors: "list[TensorError] | None") -> str:
    """The card's text; `errors` are those of the quantized tensors, None when they were not measured."""
    method = quantization_config(options, plan)["quant_method"]
    weights, activations = options.weights.name, options.activations.name
    quantized = sum(tensor.scale is not None for shard in plan.shards for tensor in shard.tensors)
    revision = f" at revision `{source.revision}`" if source.revision else ""
    command = " ".join(["octet quantize", source.name, "DST", *_source_flags(source), _flags(options)])
    adapter = f" with the adapter `{source.adapter.folder.resolve().name}` merged" if source.adapter else ""
    ignored = "\n".join(f"- `{name}`" for name in plan.ignored)
    per_channel = f"{weights} codes, one scale per output channel: symmetric, round to nearest"
    body = f"""# {source.name}, FP8-Dynamic

The FP8-Dynamic form of `{source.name}`{revision}{adapter}, made by Octet {__version__}:

    {command}

| part | format |
|---|---|
| weights of {quantized} linear layers | {per_channel} |
| their inputs | {activations}, one scale per token, computed when the model runs |
| everything else | as in the source |

No calibration data was used. The files say `quant_method: {method}`.

## Layers that were left as they are

{ignored or "None."}

## Error of the weights

{_error_table(errors)}
"""
    metadata = yaml.safe_dump(_metadata(source), sort_keys=False, allow_unicode=True)
    return f"---\n{metadata}---\n\n{body}"


def _metadata(source: Source) -> dict[str, Any]:
    known = _source_metadata(source.directory / CARD)
    inherited = {key: known[key] for key in _INHERITED if key in known}
    if source.revision:
        inherited |= {"base_model": source.name, "base_model_relation": "quantized"}
    return {"library_name": "vllm", "tags": ["fp8", "octet"], **inherited}


def _source_metadata(path: Path) -> dict[str, Any]:
    """What the source's own card says at its top; a damaged or missing card says nothing."""
    if not path.is_file():
        return {}
    block = re.match(
        r"\s*---\r?\n(.*?)\n---\s", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL
    )
    try:
        known = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError:
        return {}
    return known if isinstance(known, dict) else {}


def _source_flags(source: Source) -> list[str]:
    return [] if source.adapter is None else [f"--adapter {source.adapter.folder.resolve().name}"]


def _flags(options: Options) -> str:
    default = Options()
    flags = [f"--weights {options.weights.value}", f"--activations {options.activations.value}"]
    if options.targets != default.targets:
        flags += [f"--targets '{target}'" for target in options.targets]
    defaults = set(default.ignore) <= set(options.ignore)
    if not defaults:
        flags.append("--no-default-ignore")
    flags += [f"--ignore '{name}'" for name in options.ignore if not (defaults and name in default.ignore)]
    if options.vocabulary:
        flags.append("--vocabulary")
    if options.like is not None:
        flags.append(f"--like {options.like}")
    if options.blocks is not None:
        flags.append(f"--blocks '{options.blocks}'")
    return " ".join(flags)


def _error_table(errors: "list[TensorError] | None") -> str:
    if errors is None:
        return "Not measured: `octet quantize --verify` does."
    errors = sorted(errors, key=lambda error: error.error.sqnr)
    worst, middle, best = (errors[i].error.sqnr for i in (0, len(errors) // 2, -1))
    lines = [
        f"Signal to quantization noise of the weights against their source: {worst:.2f} dB at worst, "
        f"{middle:.2f} dB in the middle, {best:.2f} dB at best. The worst:",
        "",
        "| weight | SQNR | worst output channel | its SQNR |",
        "|---|---|---|---|",
    ]
    for weight in errors[:_WORST_SHOWN]:
        error = weight.error
        figures = f"{error.sqnr:.2f} dB | {error.worst_channel} | {error.worst_sqnr:.2f} dB"
        lines.append(f"| `{weight.name}` | {figures} |")
    return "\n".join(lines)
