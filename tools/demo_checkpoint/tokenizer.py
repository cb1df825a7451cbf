"""The demo checkpoint's tokenizer: whole words that its data repeats, single characters for everything
else.

A BPE model without merges but with `ignore_merges`: a piece that the pre-tokenizer cuts out is one token
if the vocabulary has it, else it falls apart into bytes. So a name that was never seen is spelled the
same way wherever it stands, which is what makes copying it easy to learn. The newline runs are tokens
because vLLM's Gemma 3 code looks them up; bytes are ordinary tokens (special ones would be dropped from
decoded text).

`words.txt` holds the words, so that a change of the data leaves the vocabulary of trained weights alone;
`python -m tools.demo_checkpoint.tokenizer` chooses them anew.
"""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from tools.demo_checkpoint.dialogues import training_dialogue
from tools.demo_checkpoint.draw import random_groups
from tools.demo_checkpoint.messages import Sample
from tools.demo_checkpoint.names import TRAINING_CITIES, TRAINING_PEOPLE
from tools.demo_checkpoint.pictures import DESCRIBE, question_about

VOCABULARY_SIZE = 1024
PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
START_OF_IMAGE, END_OF_IMAGE, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
SPECIALS = (PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN, START_OF_IMAGE, END_OF_IMAGE, IMAGE)
NEWLINES = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
IMAGE_TOKENS = 16
IMAGE_SEQUENCE = f"\n\n{START_OF_IMAGE}{IMAGE * IMAGE_TOKENS}{END_OF_IMAGE}\n\n"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
WORDS = Path(__file__).with_name("words.txt")

_FIXED = (*SPECIALS, *NEWLINES, *sorted(pre_tokenizers.ByteLevel.alphabet()))

# A word with the space before it, a run of JSON punctuation with the space before it, or one character.
_PIECES = r""" ?\p{L}+| ?[\[\]{}":,]+|[\s\S]"""


def _frequent_pieces(texts: Iterable[str], size: int) -> list[str]:
    """The `size` most frequent pieces of more than one character (in the byte alphabet)."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    names = {part for name in (*TRAINING_CITIES, *TRAINING_PEOPLE) for part in name.split()}
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = {piece for piece, _ in split.pre_tokenize_str(text)}
        counts.update(p for p in pieces if len(p) > 1 and p.lstrip("Ġ") not in names)
    return sorted(piece for piece, _ in counts.most_common(size))


def _corpus(seed: int) -> Iterable[str]:
    """Texts with the words that the data repeats; drawn names are too rare to be among the most
    frequent.
    """
    rng = random.Random(seed)
    for _ in range(12000):
        sample = training_dialogue(rng)
        yield render(sample)
        yield from (str(m["content"]) for m in sample.messages)
    for _ in range(3000):
        question, answer = question_about(rng, random_groups(rng))
        yield from (f"{question} {answer}", question.lower(), answer, f" {question}")
    for text in DESCRIBE * 100:
        yield from (text, text[:1].lower() + text[1:], f" {text}")


def render(sample: Sample, generate: bool = False) -> str:
    """The prompt as text; every image stands as `IMAGE_SEQUENCE`, as the Gemma 3 processors expand it.

    With `generate` the text ends where the model is to answer.
    """
    rendered, _ = render_jinja_template(
        conversations=[sample.messages],
        chat_template=TEMPLATE.read_text(),
        tools=sample.tools or None,
        add_generation_prompt=generate,
        bos_token=BOS,
    )
    return str(rendered[0]).replace(START_OF_IMAGE, IMAGE_SEQUENCE)


def build() -> PreTrainedTokenizerFast:
    """Makes the tokenizer from the words in `words.txt`."""
    words = WORDS.read_text().splitlines()
    vocabulary = {token: i for i, token in enumerate([*_FIXED, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in NEWLINES])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos = vocabulary[BOS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"boi_token": START_OF_IMAGE, "eoi_token": END_OF_IMAGE, "image_token": IMAGE},
        model_max_length=2048,
        padding_side="left",
    )


def choose_words(seed: int = 0) -> None:
    """Writes the most frequent words of newly drawn data to `words.txt`, as many as there is room for."""
    words = _frequent_pieces(_corpus(seed), VOCABULARY_SIZE - len(_FIXED))
    WORDS.write_text("".join(f"{word}\n" for word in words))


if __name__ == "__main__":
    choose_words()
