"""The `ostler` command: the CLI, and `up`, which composes the other rooms on one machine. Nobody imports this room."""
