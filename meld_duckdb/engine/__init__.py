"""Engines: whatever runs a language model behind one contract (`backend`)."""
