"""Tables that outlive a process."""
