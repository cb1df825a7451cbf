"""llm-compressor as the oracle of `octet quantize`, in an environment of its own (`make oracle`)."""
