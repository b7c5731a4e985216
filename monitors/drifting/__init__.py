"""Looks at drift: what is compared, where thresholds lie, and what is kept."""
