"""Tests of the monitor's process."""
