"""The ways between sources and destinations, which know the contracts only."""
