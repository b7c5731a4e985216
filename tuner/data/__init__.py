"""From uploaded rows to a frozen dataset."""
