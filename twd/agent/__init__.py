"""The agent of one machine: reports the machine's facts, and runs processes there for others."""
