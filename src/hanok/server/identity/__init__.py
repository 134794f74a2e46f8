"""Who asks, and what they may: keys, people with sessions, roles, tenants."""
