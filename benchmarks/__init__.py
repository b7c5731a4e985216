"""Measurements, each a program that writes its results into `benchmarks/results`; `speed` writes a page of its own."""
