"""The engine room: neutral types and the protocol that an engine implements; `vllm` is the implementation."""
