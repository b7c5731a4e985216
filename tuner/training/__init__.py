"""From a dataset to the files of an adapter."""
