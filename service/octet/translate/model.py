"""What is served, for ModelService; texts to tokenize and tokens to put together."""

from octet.engine.types import ModelInfo, PromptAccepted, Service, Tokens
from octet.errors import InvalidRequestError
from octet.translate.media import ImageLimits
from octet.translate.request import resolve_model
from octet.translate.sampling import check_token_id
from octet.v1 import model_service_pb2

SERVICE_NAMES = {
    Service.CHAT: "octet.v1.ChatService",
    Service.COMPLETION: "octet.v1.CompletionService",
    Service.EMBEDDING: "octet.v1.EmbeddingService",
}
"""By what a model can be asked for: the service that answers it."""

MAX_TEXT_LENGTH = 1048576
MAX_TOKEN_IDS = 262144


def to_models(model: ModelInfo, limits: ImageLimits) -> list[model_service_pb2.Model]:
    """Gives one Model for each served name, the default one first."""
    return [to_model(name, model, limits) for name in model.names]


def to_model(name: str, model: ModelInfo, limits: ImageLimits) -> model_service_pb2.Model:
    """Gives `model` under the served name `name`; `limits` are the server's own, of pictures."""
    message = model_service_pb2.Model(
        name=name,
        source=model.source,
        input_modalities=[model_service_pb2.MODALITY_TEXT],
        output_modalities=[
            model_service_pb2.MODALITY_TEXT if model.vectors is None else model_service_pb2.MODALITY_VECTOR
        ],
        context_window=model.context_window,
        output_token_limit=model.output_token_limit,
        active_kernels=model.active_kernels,
        adapters=model.adapters,
        services=[SERVICE_NAMES[service] for service in model.services],
        vocabulary_format=model.vocabulary_format,
    )
    if model.vectors is not None:
        message.embedding.dimensions = model.vectors.dimensions
        message.embedding.any_dimensions = len(model.vectors.offered) == model.vectors.dimensions
        if not message.embedding.any_dimensions:
            message.embedding.dimensions_offered.extend(model.vectors.offered)
    if model.quantization is not None:
        message.quantization.scheme = model.quantization.scheme
        message.quantization.weight_format = model.quantization.weight_format
        message.quantization.activation_format = model.quantization.activation_format
    if model.takes_images:
        message.input_modalities.append(model_service_pb2.MODALITY_IMAGE)
        message.image_limits.max_images = model.max_images
        message.image_limits.max_bytes = limits.max_bytes
        message.image_limits.max_pixels = limits.max_pixels
        message.image_limits.tokens_per_image = model.tokens_per_image
    return message


def to_text(request: model_service_pb2.TokenizeRequest, model: ModelInfo) -> str:
    """Checks TokenizeRequest and gives its text.

    Raises:
        InvalidRequestError: at the wrong field.
        ModelNotFoundError: when the request names another model.
    """
    resolve_model(request.model, model)
    if not 1 <= len(request.text) <= MAX_TEXT_LENGTH:
        raise InvalidRequestError("text", f"has {len(request.text)} characters, not 1 to {MAX_TEXT_LENGTH}")
    return request.text


def to_token_ids(request: model_service_pb2.DetokenizeRequest, model: ModelInfo) -> tuple[int, ...]:
    """Checks DetokenizeRequest and gives its token ids.

    Raises:
        InvalidRequestError: at the wrong field.
        ModelNotFoundError: when the request names another model.
    """
    resolve_model(request.model, model)
    if not 1 <= len(request.token_ids) <= MAX_TOKEN_IDS:
        raise InvalidRequestError("token_ids", f"has {len(request.token_ids)} ids, not 1 to {MAX_TOKEN_IDS}")
    for i, token_id in enumerate(request.token_ids):
        check_token_id(token_id, f"token_ids[{i}]", model.vocabulary_size)
    return tuple(request.token_ids)


def to_count(counted: PromptAccepted) -> model_service_pb2.CountTokensResponse:
    """Gives the length of a prompt."""
    return model_service_pb2.CountTokensResponse(
        prompt_tokens=counted.prompt_tokens, image_tokens=counted.image_tokens
    )


def to_tokens(tokens: Tokens) -> model_service_pb2.TokenizeResponse:
    """Gives a text's tokens."""
    return model_service_pb2.TokenizeResponse(token_ids=tokens.ids, tokens=tokens.texts)
