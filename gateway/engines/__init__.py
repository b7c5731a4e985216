"""vLLM: its replicas, what is loaded where, which one serves a request, and the proof that a version acts."""
