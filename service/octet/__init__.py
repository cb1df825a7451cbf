"""Octet: FP8-Dynamic multimodal models behind a streaming gRPC API."""

__version__ = "0.1.0"
