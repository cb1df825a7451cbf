"""Picture files: what their headers say, and decoding in processes that can be stopped."""
