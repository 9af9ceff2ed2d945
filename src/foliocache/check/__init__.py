"""The model checker: runs the shipped core, uncompiled, through every interleaving and every weak-memory behaviour that matters."""
