"""Between the protocol and the engine: pure functions, without gRPC and without vLLM."""
