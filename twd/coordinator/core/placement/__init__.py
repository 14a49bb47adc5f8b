"""Which layers of a model go on which devices: `search.py` tries orders of devices, `filling.py` fills one of them."""
