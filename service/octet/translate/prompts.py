"""Prompts to which no chat template is applied."""

from collections.abc import Sequence

from octet.engine.types import ImagePart, ModelInfo, Prompt, TextPart, TokensPart
from octet.errors import ContextLengthError, InvalidRequestError
from octet.translate.pictures import PictureReader, Pictures, check_image_count
from octet.translate.sampling import check_token_id
from octet.v1 import prompt_pb2


def pictures_of_prompt(prompt: prompt_pb2.Prompt, path: str) -> Pictures:
    """Gives all pictures with their paths, in order."""
    return [
        (f"{path}.parts[{i}].image", part.image)
        for i, part in enumerate(prompt.parts)
        if part.HasField("image")
    ]


def check_prompt(prompt: prompt_pb2.Prompt, path: str, model: ModelInfo, most_tokens: int | None) -> None:
    """Checks all that can be told of a prompt without decoding its pictures.

    Args:
        prompt: the prompt at `path`.
        path: its field.
        model: what is served.
        most_tokens: most token ids that it may hold; None for any number.

    Raises:
        ContextLengthError: its token ids alone are too many.
        InvalidRequestError: at the wrong field.
    """
    if not prompt.parts:
        raise InvalidRequestError(f"{path}.parts", "is empty; a prompt needs at least one part")
    check_image_count(pictures_of_prompt(prompt, path), model)
    # Before anything is done with each of them: there may be millions.
    count = sum(len(part.tokens.ids) for part in prompt.parts)
    if most_tokens is not None and count > most_tokens:
        raise ContextLengthError(
            path,
            f"has {count} token ids, more than the {most_tokens} that the model's context window of "
            f"{model.context_window} tokens takes",
        )
    for i, part in enumerate(prompt.parts):
        match part.WhichOneof("kind"):
            case "text":
                if not part.text:
                    raise InvalidRequestError(f"{path}.parts[{i}].text", "is empty; leave the part out")
            case "tokens":
                _check_ids(part.tokens.ids, f"{path}.parts[{i}].tokens.ids", model.vocabulary_size)
            case "image":
                pass
            case _:
                raise InvalidRequestError(f"{path}.parts[{i}]", "is empty; set one of text, tokens and image")


def to_prompt(
    prompt: prompt_pb2.Prompt,
    path: str,
    pictures: PictureReader,
    *,
    add_special_tokens: bool,
    parse_special_tokens: bool,
    siblings: int,
) -> Prompt:
    """Converts a prompt that was checked; decodes its pictures.

    Args:
        prompt: the prompt at `path`.
        path: its field.
        pictures: reads its pictures.
        add_special_tokens, parse_special_tokens, siblings: as `Prompt` has them.

    Raises:
        InvalidRequestError: at a picture that is wrong.
    """
    parts: list[TextPart | TokensPart | ImagePart] = []
    for i, part in enumerate(prompt.parts):
        match part.WhichOneof("kind"):
            case "text":
                parts.append(TextPart(part.text))
            case "tokens":
                parts.append(TokensPart(tuple(part.tokens.ids)))
            case "image":
                parts.append(pictures.read(part.image, f"{path}.parts[{i}].image"))
    return Prompt(path, tuple(parts), add_special_tokens, parse_special_tokens, siblings)


def _check_ids(ids: Sequence[int], path: str, vocabulary_size: int) -> None:
    if not ids:
        raise InvalidRequestError(path, "is empty; leave the part out")
    if min(ids) < 0 or max(ids) >= vocabulary_size:
        for i, token_id in enumerate(ids):
            check_token_id(token_id, f"{path}[{i}]", vocabulary_size)
