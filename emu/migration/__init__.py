"""Live migration that honours pmem semantics: stream, phases, policy, source and destination."""
