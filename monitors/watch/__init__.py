"""The monitor's process: jobs that read what happened, and say what follows."""
