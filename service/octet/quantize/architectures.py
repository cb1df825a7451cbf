"""Which weights belong to linear layers, for the architectures that are quantized most.

A checkpoint names its tensors but not the kinds of its layers, and a matrix may as well be an embedding. So
the architecture, which config.json names, decides. This table has the answer at once; for all others
transformers is asked (`anatomy.py`), which takes seconds, and must give the same one for those in the table:
`tests/unit/quantize/test_architectures.py`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from octet.quantize.layers import OUTPUT_LAYER, Anatomy, Layer, aside, matrix_name, needs_a_place
from octet.quantize.safetensors_file import StoredTensor


def shared_embeddings(names: Iterable[str]) -> list[str]:
    """Of a checkpoint's tensors, the embeddings that an output layer without a tensor may share."""
    return [name for name in names if name.endswith("embed_tokens.weight")]


@dataclass(frozen=True, slots=True)
class Block:
    """Linear layers that stand together in a model.

    Attributes:
        prefix: regular expression of what precedes their names, dots included. Its group, if it has one, is
            the number of the layer that repeats the block.
        modules: their names below it, in the order in which the model holds them; `*` is an expert's number.
    """

    prefix: str
    modules: tuple[str, ...]

    def position(self, module: str) -> tuple[int, ...] | None:
        """Where the linear layer `module` stands in the repeated block; None when there is no such layer."""
        match = re.match(self.prefix, module)
        if match is None:
            return None
        name, experts = re.subn(r"(?<=experts\.)(\d+)(?=\.)", "*", module[match.end() :])
        if name not in self.modules:
            return None
        layer = int(match[1]) if match.groups() else 0
        expert = [int(part) for part in module.split(".")[-2:-1]] if experts else []
        return layer, self.modules.index(name), *expert


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where a model has linear layers.

    Attributes:
        blocks: all but the output layer, in the order in which the model holds them.
        has_output_layer: whether vLLM has one, apart from an embedding that it multiplies by.
    """

    blocks: tuple[Block, ...]
    has_output_layer: bool = True

    def position(self, module: str) -> tuple[int, ...] | None:
        """Where the linear layer `module` stands among the model's; None when there is no such layer."""
        for number, block in enumerate((*self.blocks, _OUTPUT)):
            position = block.position(module)
            if position is not None:
                return number, *position
        return None


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_DECODER = (*_ATTENTION, *_GATED_MLP)
_FUSED_DECODER = ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")
_VISION = (
    *("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"),
    *("mlp.fc1", "mlp.fc2"),
)

# Embedding models are published without what precedes "layers".
_LAYER = r"(?:model\.)?layers\.(\d+)\."
_TEXT = Architecture((Block(_LAYER, _DECODER),))
_FUSED_TEXT = Architecture((Block(_LAYER, _FUSED_DECODER),))
_MIXTRAL = (*_ATTENTION, "block_sparse_moe.gate", *(f"block_sparse_moe.experts.*.w{n}" for n in (1, 2, 3)))
_QWEN_EXPERTS = tuple(f"mlp.experts.*.{name}_proj" for name in ("gate", "up", "down"))

# Published checkpoints and those that transformers 5 saves differ in the prefixes of these.
_NESTED_TEXT = Block(r"(?:language_model\.model|model\.language_model)\.layers\.(\d+)\.", _DECODER)
_NESTED_VISION = Block(r"(?:model\.)?vision_tower\.(?:vision_model\.)?encoder\.layers\.(\d+)\.", _VISION)
_PROJECTOR = Block(r"(?:model\.)?multi_modal_projector\.", ("linear_1", "linear_2"))
_OUTPUT = Block(r"(?:language_model\.)?", (OUTPUT_LAYER,))

_ARCHITECTURES = {
    "Gemma2ForCausalLM": Architecture(_TEXT.blocks, has_output_layer=False),
    "Gemma3ForCausalLM": _TEXT,
    "Gemma3ForConditionalGeneration": Architecture((_NESTED_VISION, _NESTED_TEXT)),
    "GemmaForCausalLM": _TEXT,
    "GraniteForCausalLM": _TEXT,
    "LlamaForCausalLM": _TEXT,
    "LlavaForConditionalGeneration": Architecture((_NESTED_VISION, _PROJECTOR, _NESTED_TEXT)),
    "MistralForCausalLM": _TEXT,
    "MixtralForCausalLM": Architecture((Block(_LAYER, _MIXTRAL),)),
    "Olmo2ForCausalLM": _TEXT,
    "Phi3ForCausalLM": _FUSED_TEXT,
    "Qwen2ForCausalLM": _TEXT,
    "Qwen3ForCausalLM": _TEXT,
    "Qwen3MoeForCausalLM": Architecture((Block(_LAYER, (*_DECODER, "mlp.gate", *_QWEN_EXPERTS)),)),
    "SmolLM3ForCausalLM": _TEXT,
}


def names() -> tuple[str, ...]:
    """The known architectures, by the names that config.json gives them."""
    return tuple(_ARCHITECTURES)


def find(name: str) -> Architecture | None:
    """The architecture that config.json calls `name`; None where the table lacks it."""
    return _ARCHITECTURES.get(name)


def anatomy(architecture: Architecture, tensors: Iterable[StoredTensor]) -> Anatomy:
    """The linear layers of a checkpoint whose architecture the table has."""
    layers, unknown = [], []
    for tensor in tensors:
        module = matrix_name(tensor)
        position = None if module is None else architecture.position(module)
        if module is not None and position is not None:
            kept = aside(module, tensor.shape) if module.endswith(".gate") else None
            layers.append(Layer(tensor.name, position, (module,), kept))
        elif needs_a_place(tensor):
            unknown.append(tensor.name)
    layers.sort(key=lambda layer: (layer.order, layer.modules))
    return Anatomy(tuple(layers), tuple(unknown), output=True, loads_output=architecture.has_output_layer)
