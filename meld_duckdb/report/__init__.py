"""One HTML page about what the functions say of some tables: ``meld report``.

    wanted -> `asked` (table functions, in temporary tables) -> `sections` -> `page` (one file)

`judged` holds what is said against the learned labels, `facts` tells what the page was made with.
"""
