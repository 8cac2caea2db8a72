"""The ports `TenantDirectory`, `TenantKeys` and `TenantRegistry`, one module a technology."""
