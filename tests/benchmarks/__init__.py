"""The benchmarks' own logic: what they conclude from what they have seen."""
