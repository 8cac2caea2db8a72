"""The technologies behind the ports: one folder a port, one file a technology."""
