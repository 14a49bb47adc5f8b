"""The message bus: one protocol, NATS and an in-memory double behind it."""
