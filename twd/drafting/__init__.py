"""What whoever guesses ahead and whoever checks it both need: text that comes again, records of what was right."""
