"""The port `EventQueue`."""
