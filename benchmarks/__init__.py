"""fastconv against PyTorch over the rows of shapes.json: `python -m benchmarks --help`."""
