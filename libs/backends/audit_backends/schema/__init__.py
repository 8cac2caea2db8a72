"""The database's schema: numbered migrations, and the logins that its grants name."""
