"""Which weights belong to linear layers, for each architecture that is known.

A checkpoint names its tensors but not the kinds of its layers, and a matrix may as well be an embedding. So
the architecture, which config.json names, decides. `tests/unit/quantize/test_architectures.py` compares this
table with the layers that transformers builds.
"""

import re
from dataclasses import dataclass

from octet.quantize.errors import QuantizeError


@dataclass(frozen=True, slots=True)
class Block:
    """Linear layers that a model repeats.

    Attributes:
        prefix: regular expression of what precedes a layer's number, dots included.
        modules: names of the linear layers below it, in the order in which the model holds them.
    """

    prefix: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where a model has linear layers.

    Attributes:
        blocks: those in repeated layers, in the order in which the model holds them.
        single: regular expressions of the names of the others, but for the output layer.
    """

    blocks: tuple[Block, ...]
    single: tuple[str, ...] = ()

    def position(self, module: str) -> tuple[int, int, int] | None:
        """Where the linear layer `module` stands among the model's; None when there is no such layer."""
        for number, block in enumerate(self.blocks):
            match = re.fullmatch(rf"{block.prefix}(\d+)\.(.+)", module)
            if match and match[2] in block.modules:
                return number, int(match[1]), block.modules.index(match[2])
        for number, pattern in enumerate((*self.single, OUTPUT_LAYER)):
            if re.fullmatch(pattern, module):
                return len(self.blocks) + number, 0, 0
        return None


OUTPUT_LAYER = r"(?:language_model\.)?lm_head"
"""Name of the layer that makes logits, the last one of every model here."""

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_DECODER = (*_ATTENTION, *_GATED_MLP)
_FUSED_DECODER = ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")
_VISION = (
    *("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"),
    *("mlp.fc1", "mlp.fc2"),
)

_TEXT = Architecture((Block(r"model\.layers\.", _DECODER),))
_FUSED_TEXT = Architecture((Block(r"model\.layers\.", _FUSED_DECODER),))

# Published checkpoints and those that transformers 5 saves differ in the prefixes of these.
_NESTED_TEXT = Block(r"(?:language_model\.model|model\.language_model)\.layers\.", _DECODER)
_NESTED_VISION = Block(r"(?:model\.)?vision_tower\.(?:vision_model\.)?encoder\.layers\.", _VISION)

_ARCHITECTURES = {
    "Gemma2ForCausalLM": _TEXT,
    "Gemma3ForCausalLM": _TEXT,
    "Gemma3ForConditionalGeneration": Architecture((_NESTED_VISION, _NESTED_TEXT)),
    "GemmaForCausalLM": _TEXT,
    "GraniteForCausalLM": _TEXT,
    "LlamaForCausalLM": _TEXT,
    "LlavaForConditionalGeneration": Architecture(
        (_NESTED_VISION, _NESTED_TEXT), (r"(?:model\.)?multi_modal_projector\.linear_[12]",)
    ),
    "MistralForCausalLM": _TEXT,
    "Olmo2ForCausalLM": _TEXT,
    "Phi3ForCausalLM": _FUSED_TEXT,
    "Qwen2ForCausalLM": _TEXT,
    "Qwen3ForCausalLM": _TEXT,
    "SmolLM3ForCausalLM": _TEXT,
}


def names() -> tuple[str, ...]:
    """The known architectures, by the names that config.json gives them."""
    return tuple(_ARCHITECTURES)


def find(name: str) -> Architecture:
    """The architecture that config.json calls `name`.

    Raises:
        QuantizeError: it is not known.
    """
    if name not in _ARCHITECTURES:
        raise QuantizeError(
            f"the architecture {name} is not known; known are {', '.join(sorted(_ARCHITECTURES))}"
        )
    return _ARCHITECTURES[name]
