"""Runs guests: records the workload, runs its recovery on what crashes leave, and finds why some fail."""
