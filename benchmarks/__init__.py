"""Measurements, each a program that writes its results into `benchmarks/results`."""
