"""Holds the control data: tenants, their keys, limits and policies."""
