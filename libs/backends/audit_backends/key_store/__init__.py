"""The port `KeyStore`, one module a technology."""
