"""What answers requests with a running engine: prompts, sampling, answers, what the model is."""
