"""From the files of an adapter to the verdict of its gate."""
