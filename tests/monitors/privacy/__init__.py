"""Tests of `monitors/privacy`."""
