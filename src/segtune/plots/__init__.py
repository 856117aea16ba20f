"""Figures that several rooms draw: arrays in, matplotlib figures out."""
