"""The port `Ledger` and its reader."""
