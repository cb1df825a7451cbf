"""Pictures on CPUs: the vision tower in slices of bounded work, so that decoding goes on between them."""
