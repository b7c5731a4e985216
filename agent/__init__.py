"""The engine agent: a small process beside a vLLM that fetches versions for it, and alone tells it what to load.

Imports `registry` alone, and of that only what reads the artifact store: no database, no numbers.
"""
