"""Uses another program's server as a target that verifies drafts."""
