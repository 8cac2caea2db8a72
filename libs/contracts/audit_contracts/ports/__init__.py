"""What the house asks of the world outside: one protocol a file, kept by every backend of that port."""
