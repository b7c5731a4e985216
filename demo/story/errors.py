"""How a story ends before its end."""

__all__ = ["StoryFailed"]


class StoryFailed(Exception):
    """The story did not go as it should; the message says where it stood."""
