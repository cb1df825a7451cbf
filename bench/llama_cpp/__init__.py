"""llama.cpp beside the other engines of `bench.end_to_end`: what people without a GPU run today.

`environment` builds it from its sources, natively, into an environment of its own; `write_gguf` and `run` are
programs of that environment, and know nothing of Octet; `engine` is what the benchmark calls.
"""
