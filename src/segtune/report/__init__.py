"""Analyse the results of a sweep and write them as an HTML page. The package does not import torch."""
