"""Dataset versions at rest: synchronous, thread-safe by stated rule, prints nothing, reads no environment."""
