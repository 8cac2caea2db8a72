"""The `auditlog` command: runs the parts, together or alone, and speaks to them as a client."""
