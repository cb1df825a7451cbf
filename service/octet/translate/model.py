"""What is served, for ModelService."""

from octet.engine.types import ModelInfo
from octet.translate.media import ImageLimits
from octet.v1 import model_service_pb2


def to_models(model: ModelInfo, limits: ImageLimits) -> list[model_service_pb2.Model]:
    """Gives one Model for each served name, the default one first."""
    return [to_model(name, model, limits) for name in model.names]


def to_model(name: str, model: ModelInfo, limits: ImageLimits) -> model_service_pb2.Model:
    """Gives `model` under the served name `name`; `limits` are the server's own, of pictures."""
    message = model_service_pb2.Model(
        name=name,
        source=model.source,
        input_modalities=[model_service_pb2.MODALITY_TEXT],
        output_modalities=[model_service_pb2.MODALITY_TEXT],
        context_window=model.context_window,
        output_token_limit=model.output_token_limit,
        active_kernels=model.active_kernels,
        adapters=model.adapters,
    )
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
