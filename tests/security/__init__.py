"""What a hostile table, workspace, model, caller or server can do: nothing but be answered."""
