"""The model checker: runs the shipped core, uncompiled, through every interleaving and weak-memory behaviour that matters."""
