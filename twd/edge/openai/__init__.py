"""OpenAI's API: the fields of requests in `types.py`; what becomes of them in the file of each endpoint."""
