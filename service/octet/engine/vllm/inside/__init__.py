"""What runs inside vLLM's processes: kernels in its layers, formats, pictures, what its workers are asked."""
