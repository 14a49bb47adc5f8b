"""A stage: the process that computes one slice of a model's layers in a ring.

A stage does not replace another one that is lost; `twd/speculator/targets/ring.py` does.
"""
