"""Takes events over HTTP, masks and seals them, and answers once the event queue has them durably."""
