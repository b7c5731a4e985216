"""Tests of `monitors/money`."""
