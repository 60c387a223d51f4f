"""Encoder, store and blocking."""
