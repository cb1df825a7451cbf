"""A tokenizer of Gemma 3's size, with its special tokens at their places; the words in it are made up.

What costs time and memory in the published tokenizer is here too: 262,145 tokens, two merges for most of
them, and 6,400 tokens that are looked for in every text before it is split. The pieces are not words of any
language but strings of letters, frequent letters first, so that any text becomes tokens, though more of them.
"""

from itertools import product
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
START_OF_IMAGE, END_OF_IMAGE, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")

# Tokens in front of <image_soft_token>, the last one, in the published tokenizer; and how many of them
# are behind the words: the marks of pictures and tokens that are not used.
SIZE = 262_144
_BEHIND = 6_145

_SPACE = "\u2581"
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
_RUNS = 31
_UNUSED_BEFORE = 99


def image_ids(size: int = SIZE) -> tuple[int, int, int]:
    """The ids of <start_of_image>, <end_of_image> and <image_soft_token>."""
    return size - _BEHIND, size - _BEHIND + 1, size


def build(size: int = SIZE) -> PreTrainedTokenizerFast:
    """Makes the tokenizer; takes some seconds.

    Args:
        size: how many tokens it has beside <image_soft_token>; at least 8192.
    """
    fixed = _specials_in_front()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    single = [chr(code) for code in range(0x21, 0x7F)] + [_SPACE]
    pieces, merges = _pieces(size - _BEHIND - len(fixed) - len(bytes_) - len(single))
    behind = [START_OF_IMAGE, END_OF_IMAGE]
    behind += [f"<unused{_UNUSED_BEFORE + n}>" for n in range(_BEHIND - len(behind))]
    tokens = [*fixed, *bytes_, *single, *pieces, *behind, IMAGE]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    assert tuple(vocabulary[token] for token in (START_OF_IMAGE, END_OF_IMAGE, IMAGE)) == image_ids(size)
    bpe = models.BPE(vocab=vocabulary, merges=merges, unk_token=UNK, byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    runs = [token for token in fixed if not token.startswith("<")]
    marks = [token for token in (*fixed, *behind, IMAGE) if token.startswith("<")]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in marks])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in runs])
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"boi_token": START_OF_IMAGE, "eoi_token": END_OF_IMAGE, "image_token": IMAGE},
        padding_side="left",
    )


def _specials_in_front() -> list[str]:
    """The tokens that the published tokenizer has at ids 0 to 168, in their order."""
    unused = [f"<unused{number}>" for number in range(_UNUSED_BEFORE)]
    newlines = ["\n" * length for length in range(1, _RUNS + 1)]
    blanks = [_SPACE * length for length in range(2, _RUNS + 1)]
    marks = [PAD, EOS, BOS, UNK, "<mask>", "<multimodal>"]
    return [*marks, *unused, START_OF_TURN, END_OF_TURN, *newlines, *blanks]


def _pieces(count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`count` strings of two to four letters, short and frequent ones first, and what merges into them."""
    pieces: list[str] = []
    merges: list[tuple[str, str]] = []
    for length in (2, 3, 4):
        alphabets = [_LETTERS + _SPACE, *[_LETTERS] * (length - 1)]
        ranked = sorted(product(*(range(len(letters)) for letters in alphabets)), key=sum)
        for ranks in ranked[: count - len(pieces)]:
            piece = "".join(letters[rank] for letters, rank in zip(alphabets, ranks, strict=True))
            pieces.append(piece)
            cuts = [1] if length == 2 else [length - 1, 1]
            merges += [(piece[:cut], piece[cut:]) for cut in cuts]
    known = {*pieces, *_LETTERS, _SPACE}
    return pieces, [pair for pair in merges if known.issuperset(pair)]
