"""The workloads, one a module: each measures its contestants in a session and adds its rows."""
