"""Identity: tokens of trusted issuers, API keys, and the principal that either stands for."""
