"""The request log: what is written of requests, in batches, and read, exported and deleted again."""
