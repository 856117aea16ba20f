"""Published studies.

A report judges the claims of a study if the sweep was made for the study or if the option claims= requests it.
"""
