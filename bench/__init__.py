"""Benchmarks of Octet as a whole; `octet bench` measures the kernels, and running servers."""
