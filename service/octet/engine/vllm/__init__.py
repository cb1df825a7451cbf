"""The engine over vLLM. No other package of Octet imports vllm; importing this one does not load it."""
