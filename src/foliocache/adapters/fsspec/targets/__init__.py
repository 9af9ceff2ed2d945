"""One module per kind of target filesystem, over ``base`` and ``place``; ``fs.target`` chooses among them."""
