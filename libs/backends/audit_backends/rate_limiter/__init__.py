"""Rate limiters: in this process's memory."""
