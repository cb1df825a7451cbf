"""What one caller can cost another: see `python -m bench.neighbours --help`."""
