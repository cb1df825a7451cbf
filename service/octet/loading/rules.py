"""The rules: each finds one way in which vLLM would not load a checkpoint, or load something else than it is.

Every rule has a test that has vLLM load a checkpoint that breaks it, and one that keeps it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from octet.engine.vllm import formats
from octet.loading import naming
from octet.loading.contents import INPUT_SCALE, SCALE, WEIGHT, Contents, StoredTensor
from octet.loading.naming import Layer
from octet.loading.said import COMPRESSED_TENSORS, Group

# How codes may be packed where vLLM looks for a scheme with activations that are quantized, or for none.
_PACKED = ("naive-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized")

_FLOATS = ("BF16", "F16", "F32", "F64")

# Parts of names outside of language models, whose linear layers vLLM often builds without quantization, and
# architectures of which it is known that it does not.
_TOWER = re.compile(
    r"vision|visual|image|audio|speech|tower|encoder|projector|connector|merger|embed|mtp|draft"
)
_QUANTIZED_TOWERS = ("Gemma3ForConditionalGeneration",)
_LINEAR = re.compile(
    r"(.*\.)?layers\.\d+\..*\b([qkvo]_proj|out_proj|qkv_proj|(gate|up|gate_up|down)_proj|fc[12])"
)


def problems(contents: Contents, *, guess: bool = True) -> Iterator[str]:
    """What keeps vLLM from loading a checkpoint as what it is; one line a kind of contradiction.

    Args:
        contents: the checkpoint.
        guess: whether to apply the rule that goes by names of layers that vLLM quantizes in most models.
    """
    if contents.said is None:
        if codes := contents.codes:
            yield f"{_some(codes)}: {codes[0].dtype}, and config.json has no quantization_config"
    elif contents.said.method in (COMPRESSED_TENSORS, formats.METHOD):
        for rule in _RULES:
            yield from rule(contents)
        if guess:
            yield from unquantized_layers(contents)
    yield from missing_output_layer(contents)


def patterns(contents: Contents) -> Iterator[str]:
    """vLLM compiles every regular expression."""
    assert contents.said is not None
    targets = [target for group in contents.groups for target in group.targets]
    for key, names in (("ignore", contents.said.ignore), ("targets", targets)):
        for name in names:
            if reason := naming.flaw(name):
                yield f"quantization_config.{key}: {name!r} is no regular expression: {reason}"


def schemes(contents: Contents) -> Iterator[str]:
    """vLLM has code for some ways of quantizing to FP8, and stops at others."""
    for group in contents.groups:
        if group.weights.format == "e4m3" and (reason := _unknown_scheme(group)):
            yield f"quantization_config.config_groups: vLLM does not know {reason}"


def _unknown_scheme(group: Group) -> str | None:
    weights, activations = group.weights, group.activations
    if group.format not in _PACKED:
        return f"FP8 weights in the format {group.format or 'null'!r}"
    if weights.dynamic or not weights.symmetric:
        return "FP8 weights that are not symmetric, or quantized while the model runs"
    if weights.strategy not in ("tensor", "channel", "block"):
        return f"FP8 weights with one scale per {weights.strategy}"
    if weights.strategy == "block" and weights.block is None:
        return "blocks without block_structure"
    if activations is None:
        return None
    if activations.format != "e4m3":
        return f"{activations.format} activations beside FP8 weights"
    if not activations.dynamic and (activations.strategy != "tensor" or not activations.symmetric):
        return f"static activations with one scale per {activations.strategy}"
    return None


def unmultiplied_on_cpu(contents: Contents, amx: bool) -> str | None:
    """Why vLLM has no kernel on CPUs for what is quantized to FP8 so; None where it has.

    Args:
        contents: the checkpoint.
        amx: whether the CPU has AMX.
    """
    groups = [group for group in contents.groups if _is_fp8(group)]
    strategies = {group.weights.strategy for group in groups}
    if "block" in strategies and not amx:
        return "vLLM multiplies FP8 weights with one scale per block on CPUs with AMX only"
    experts = [layer for layer in contents.layers if layer.experts and any(map(contents.coded, layer.parts))]
    if experts and strategies != {"block"}:
        return "vLLM has no kernel on CPUs for FP8 experts with one scale per channel or tensor"
    if "tensor" in strategies:
        return "vLLM cannot put FP8 weights with one scale per tensor together on CPUs"
    if any(group.activations is None and group.weights.strategy != "block" for group in groups):
        return "vLLM has no kernel on CPUs for FP8 weights with unquantized activations"
    return None


def kv_cache(contents: Contents) -> Iterator[str]:
    """Of a quantized KV cache vLLM knows FP8 with one scale per tensor or per head."""
    assert contents.said is not None
    cache = contents.said.kv_cache
    if cache is None:
        return
    if cache.format != "e4m3" or cache.strategy not in ("tensor", "attn_head") or not cache.symmetric:
        how = f"{cache.format} with one scale per {cache.strategy}"
        yield f"quantization_config.kv_cache_scheme: vLLM knows symmetric FP8 per tensor or head, not {how}"


def code_formats(contents: Contents) -> Iterator[str]:
    """Codes are of the format that the config says: vLLM would convert others without a word."""
    formats_said = {_weight_format(contents, group) for group in contents.groups}
    if len(formats_said) != 1 or (said := formats_said.pop()) not in formats.SAFETENSORS_DTYPES:
        return
    expected = formats.SAFETENSORS_DTYPES[said]
    if not contents.codes:
        yield f"config.json says {said} weights, and no tensor is {expected}"
    if others := [tensor for tensor in contents.codes if tensor.dtype != expected]:
        yield f"{_some(others)}: {others[0].dtype}, and config.json says {said}"


def _weight_format(contents: Contents, group: Group) -> str:
    assert contents.said is not None
    return contents.said.pair.weights if contents.said.pair else group.weights.format


def fused_layers(contents: Contents) -> Iterator[str]:
    """What vLLM loads as one layer is quantized as a whole, or not at all."""
    stored, said = [], []
    for layer in contents.layers:
        if len(layer.parts) < 2 or not _is_fp8(contents.group_of(layer)):
            continue
        coded = [module for module in layer.parts if contents.coded(module)]
        ignored = naming.ignored_parts(layer, contents.ignore)
        if 0 < len(coded) < len(layer.parts):
            stored.append((layer, coded))
        elif 0 < len(ignored) < len(layer.parts) and not layer.experts:
            said.append((layer, ignored))
    if stored:
        yield f"{_halves(stored)}: some are quantized and some not, and vLLM loads them as one layer"
    if said:
        where = f"quantization_config.ignore names {_part_names(said[0][1])} alone"
        yield f"{_halves(said)}: {where}, and vLLM loads them as one layer"


def unannounced_codes(contents: Contents) -> Iterator[str]:
    """What is stored as codes is quantized to the config, read with vLLM's names."""
    unannounced = [m for layer, group in _whole_layers(contents) if group is None for m in layer.parts]
    if unannounced := [module for module in unannounced if contents.coded(module)]:
        yield (
            f"{_and_more(unannounced)}: stored as codes, and quantization_config, with the names that vLLM "
            "gives its layers, leaves it unquantized"
        )


def unquantized_layers(contents: Contents) -> Iterator[str]:
    """What is not stored as codes is left out by the config, read with vLLM's names."""
    kinds = {naming.kind(m) for layer in contents.layers for m in layer.parts if contents.coded(m)}
    plain = [
        module
        for layer, group in _whole_layers(contents)
        if _is_fp8(group) and not any(map(contents.coded, layer.parts)) and _is_linear(contents, layer, kinds)
        for module in layer.parts
    ]
    if plain:
        yield f"{_and_more(plain)}: not stored as codes, and quantization_config does not leave it out"


def _whole_layers(contents: Contents) -> Iterator[tuple[Layer, Group | None]]:
    """Layers that are stored and ignored as a whole, or not at all, with the groups that quantize them."""
    for layer in contents.layers:
        coded = sum(map(contents.coded, layer.parts))
        ignored = len(naming.ignored_parts(layer, contents.ignore))
        if coded in (0, len(layer.parts)) and ignored in (0, len(layer.parts)):
            yield layer, None if ignored else contents.group_of(layer)


def _is_linear(contents: Contents, layer: Layer, coded_kinds: set[str]) -> bool:
    """Whether vLLM surely builds a linear layer that it quantizes, of what is stored unquantized."""
    module = next(iter(layer.parts))
    if any(naming.kind(part) in coded_kinds for part in layer.parts):
        return not _drafts(contents, module)
    match = _LINEAR.fullmatch(module)
    if match is None or _drafts(contents, module):
        return False
    architectures = contents.config.get("architectures") or ()
    return not _TOWER.search(module) or any(name in _QUANTIZED_TOWERS for name in architectures)


def _drafts(contents: Contents, module: str) -> bool:
    match = re.match(r"(?:language_model\.|model\.)*layers\.(\d+)\.", module)
    return bool(match and contents.text_layers is not None and int(match[1]) >= contents.text_layers)


def scales(contents: Contents) -> Iterator[str]:
    """Codes have the scales that the config says, in the shapes that vLLM's parameters have."""
    bare: dict[str, list[StoredTensor]] = {}
    for layer in contents.layers:
        group = contents.group_of(layer)
        if group is None or not _is_fp8(group):
            continue
        for module in layer.parts:
            if contents.coded(module) and (reason := _missing_scale(contents, module, group)):
                bare.setdefault(reason, []).append(contents.tensors[module + WEIGHT])
    for reason, tensors in bare.items():
        yield f"{_some(tensors)}: {reason} beside it"


def _missing_scale(contents: Contents, module: str, group: Group) -> str | None:
    weight, scale = contents.tensors[module + WEIGHT], contents.tensors.get(module + SCALE)
    wanted, words = _scale_shape(group, weight.shape)
    if scale is None or not _has_shape(scale.shape, wanted):
        return f"no {SCALE[1:]} of {words}"
    if scale.dtype not in _FLOATS:
        return f"a {SCALE[1:]} of dtype {scale.dtype}"
    if group.activations is not None and not group.activations.dynamic:
        given = contents.tensors.get(module + INPUT_SCALE)
        if given is None or math.prod(given.shape) != 1:
            return f"no {INPUT_SCALE[1:]} of one value, for static activations,"
    return None


def _scale_shape(group: Group, weight: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Shape of the scales of a weight [out, in], and words for it; () is a single value."""
    if group.weights.strategy == "tensor":
        return (), "a single value"
    if group.weights.strategy == "block" and group.weights.block is not None:
        sizes = tuple(-(-size // block) for size, block in zip(weight, group.weights.block, strict=True))
        return sizes, f"one value per block, {list(sizes)}"
    return (weight[0], 1), "one value per output channel"


def _has_shape(shape: Sequence[int], wanted: tuple[int, ...]) -> bool:
    return tuple(shape) == wanted or (wanted == () and tuple(shape) == (1,))


def output_layer(contents: Contents) -> Iterator[str]:
    """To vLLM the output layer is quantized where the config names it.

    Whether it is said to share the embedding does not matter: vLLM takes the one that is stored.
    """
    assert contents.said is not None
    stored = [tensor for tensor in contents.codes if tensor.name.endswith(f"{formats.OUTPUT_LAYER}{WEIGHT}")]
    named = contents.said.names_output_layer and _outputs_named(contents)
    if stored and not named:
        said = "config.json does not say that the output layer is quantized"
        yield f"{_some(stored)}: {stored[0].dtype}, and {said}"
    if named and not stored:
        yield "config.json says that the output layer is quantized, and it is not stored so"
    if bare := [t for t in stored if not _channel_scaled(contents, t)]:
        yield f"{_some(bare)}: no {SCALE[1:]} of one value per output channel beside it"


def _outputs_named(contents: Contents) -> bool:
    """Whether it is FP8 that the output layer is said to be: codes of other methods are not looked at."""
    return all(_weight_format(contents, group) in formats.FORMATS for group in contents.groups)


def _channel_scaled(contents: Contents, weight: StoredTensor) -> bool:
    scale = contents.tensors.get(f"{weight.name}_scale")
    return scale is not None and tuple(scale.shape) == (weight.shape[0], 1)


def experts(contents: Contents) -> Iterator[str]:
    """Octet's own method has no mixtures of experts."""
    assert contents.said is not None
    if contents.said.pair is None:
        return
    found = [module for layer in contents.layers if layer.experts for module in layer.parts]
    if coded := [module for module in found if contents.coded(module)]:
        yield f"{_and_more(coded)}: quantized experts, which {formats.METHOD} does not hold"


def missing_output_layer(contents: Contents) -> Iterator[str]:
    """A model that shares nothing with its embedding has an output layer of its own.

    vLLM notices its absence in unquantized checkpoints only: in others, logits would be of random weights.
    """
    names = [name for name in contents.tensors if name.endswith(_OUTPUTS)]
    architectures = contents.config.get("architectures") or ()
    speaks = any(str(name).endswith(_SPEAKING) for name in architectures)
    if speaks and not names and _unties(contents.config):
        embeddings = [name for name in contents.tensors if name.endswith("embed_tokens.weight")]
        if embeddings:
            yield (
                "no output layer is stored, and tie_word_embeddings is false, so that it does not share "
                f"{embeddings[0]}"
            )


_OUTPUTS = (f"{formats.OUTPUT_LAYER}{WEIGHT}", "output.weight", "embed_out.weight", "output_layer.weight")
_SPEAKING = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")

# Families whose config class shares nothing where config.json is silent.
UNTIED_BY_DEFAULT = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "olmo2", "granite"),
    *("starcoder2", "deepseek_v3", "glm4", "seed_oss"),
    *("idefics3", "llama4", "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"),
    *("smolvlm", "vipllava"),
)


def _unties(config: Mapping[str, object]) -> bool:
    """Whether the output layer is sure to share nothing with the embedding.

    Of a model of several parts what stands at the top counts, and vLLM hands it on to the language model; but
    some families' config classes take over that the language model's part says that it is shared.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping) and text.get(_TIED) is True:
        return False
    said = config.get(_TIED)
    return said is False or (said is None and config.get("model_type") in UNTIED_BY_DEFAULT)


_TIED = "tie_word_embeddings"

_RULES: tuple[Callable[[Contents], Iterator[str]], ...] = (
    patterns,
    schemes,
    kv_cache,
    code_formats,
    fused_layers,
    unannounced_codes,
    scales,
    output_layer,
    experts,
)


def _is_fp8(group: Group | None) -> bool:
    return group is not None and group.weights.format == "e4m3"


def _halves(found: list[tuple[Layer, list[str]]]) -> str:
    layer, _ = found[0]
    more = f" and {len(found) - 1} more layers" if len(found) > 1 else ""
    parts = list(layer.parts)
    if layer.experts:
        return f"the experts of {layer.names[0]}{more}"
    return f"{parts[0].rpartition('.')[0]}: {_part_names(parts)}{more}"


def _part_names(modules: list[str]) -> str:
    return ", ".join(module.rpartition(".")[2] for module in modules)


def _some(tensors: Sequence[StoredTensor]) -> str:
    return _and_more([tensor.name for tensor in tensors])


def _and_more(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
