"""Tests of `monitors/log`."""
