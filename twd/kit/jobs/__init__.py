"""Jobs on the bus: their owner, and which are still alive."""
