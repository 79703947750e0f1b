"""Boot VMs, migrate them live, and prove what survived."""

__version__ = "0.1.0"
