"""Speed and memory, always as ratios against a peer in the same run: python -m tests.bench [NAME ...]."""
