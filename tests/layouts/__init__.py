"""Tiny data sets in the layout of each reader, written for tests, and tiny data in memory."""
