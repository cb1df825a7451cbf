"""KServe's protocol, with the tensors of Triton's vLLM backend: requests as completions, and answers."""
