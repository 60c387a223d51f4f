"""What a statement will cost, without paying it."""
