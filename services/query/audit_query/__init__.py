"""Reads the ledger for auditors; writes nothing to it."""
