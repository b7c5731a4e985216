"""Tests of looks at drift."""
