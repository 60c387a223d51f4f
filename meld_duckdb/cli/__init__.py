"""The command ``meld``."""
