"""What the services share: parts, settings, identity, masking, problems, logs and metrics."""
