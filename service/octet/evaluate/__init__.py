"""What quantization costs a model: the error of its weights, and what that does to its predictions."""
