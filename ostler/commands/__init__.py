"""The commands, by whom or what they are for; `ostler.cli` puts them together."""
