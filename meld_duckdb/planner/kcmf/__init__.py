"""KcMF at query time: knowledge, one prompt per source, votes."""
