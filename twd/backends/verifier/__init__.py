"""Another server as a target that checks drafts."""
