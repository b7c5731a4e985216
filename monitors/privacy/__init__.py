"""What is taken out of text and names before they are stored."""
