"""FP8-Dynamic checkpoints from unquantized ones: round-to-nearest, one scale per output channel, no data.

Weight files are streamed tensor by tensor, so neither a model's code nor memory for its weights is needed.
For E4M3 the result equals what llm-compressor's FP8_DYNAMIC writes.
"""
