"""How much of the waiting prompts a step computes beside the answers that are being written."""
