"""Takes sealed batches off the event queue and writes each event exactly once into its tenant's ledger."""
