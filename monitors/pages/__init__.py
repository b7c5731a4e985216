"""What pages for people share: files of HTML that load nothing from anywhere and run nothing.

scales       where values stand in a plot, and round ticks beside it
environment  how templates become pages; what is not ours in them is escaped
style.css    how they look, which a template takes in with ``{% include "style.css" %}``
"""
