"""What clients do to have versions made, under /v1 as OpenAI has it: files sent, and fine-tuning jobs."""
