"""Messages of the bus as events: what is heard, what is answered, and what could not be read."""
