"""The parts of one forward pass: windows, batches, sampling, verification. Does not use llama.cpp.

A sampler parameter is a field of `Sampling` in `twd/wire/job.py`; it acts in `filters.py` or `penalties.py`.
"""
