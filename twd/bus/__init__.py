"""The message bus: one interface with two implementations, NATS and in memory."""
