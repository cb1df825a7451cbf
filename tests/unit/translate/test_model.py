from dataclasses import replace

from octet.engine.types import ModelInfo, Service, Vectors
from octet.translate.media import ImageLimits
from octet.translate.model import to_model, to_models
from octet.v1 import model_service_pb2 as pb

LIMITS = ImageLimits(max_bytes=2**33, max_pixels=64_000_000)


def test_every_field_arrives(model: ModelInfo) -> None:
    expected = pb.Model(
        name="gemma-alias",
        source="org/gemma",
        input_modalities=[pb.MODALITY_TEXT, pb.MODALITY_IMAGE],
        output_modalities=[pb.MODALITY_TEXT],
        context_window=8192,
        output_token_limit=2048,
        quantization=pb.Quantization(scheme="FP8_DYNAMIC", weight_format="e4m3", activation_format="e5m2"),
        active_kernels=["per_token_quant_fp8: octet/avx2"],
        adapters=["poet", "lawyer"],
        services=["octet.v1.ChatService", "octet.v1.CompletionService"],
        vocabulary_format="e4m3",
        image_limits=pb.ImageLimits(
            max_images=3, max_bytes=2**33, max_pixels=64_000_000, tokens_per_image=256
        ),
    )
    message = to_model("gemma-alias", model, LIMITS)
    assert message == expected
    embeds = replace(model, services=(Service.EMBEDDING,), vectors=Vectors(16, range(1, 17)))
    message.embedding.CopyFrom(to_model("gemma", embeds, LIMITS).embedding)
    assert {field.name for field, _ in message.ListFields()} == set(pb.Model.DESCRIPTOR.fields_by_name)


def test_there_is_one_for_each_name_the_default_first(model: ModelInfo) -> None:
    assert [message.name for message in to_models(model, LIMITS)] == ["gemma", "gemma-alias"]


def test_what_does_not_apply_is_unset(model: ModelInfo) -> None:
    plain = replace(model, takes_images=False, max_images=0, tokens_per_image=0, quantization=None)
    message = to_model("gemma", plain, LIMITS)
    assert list(message.input_modalities) == [pb.MODALITY_TEXT]
    assert not message.HasField("image_limits")
    assert not message.HasField("quantization")
