"""What vLLM's loaders ask of an FP8 checkpoint, checked from its config.json and headers, without vLLM.

`octet quantize` asks before it writes, `octet inspect` and `octet doctor` of what others wrote.
"""
