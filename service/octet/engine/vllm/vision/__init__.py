"""Pictures on CPUs: the vision tower cut into slices of bounded work, so that decoding goes on between them."""
