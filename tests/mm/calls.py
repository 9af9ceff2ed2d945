"""Functions of the interpreted core that are replaced: which were called, with what, and whether in an operation."""

from world import ME


class Calls:
    """Replaces functions of the core: ``calls.made`` says which were called, and whether in an operation."""

    def __init__(self, segment, monkeypatch):
        self.segment, self.monkeypatch, self.made = segment, monkeypatch, []

    def replace(self, name, results=(), look=lambda: None):
        module, _, function = name.partition(".")
        results = iter(results)

        def called(mem, *args):
            self.made.append((name, self.segment.client.op_seq(ME) & 1, args, look()))
            return next(results, None)

        self.monkeypatch.setattr(getattr(self.segment.world, module), function, called)

    @property
    def names(self):
        return [name for name, *_ in self.made]

    @property
    def in_operation(self):
        return [bool(inside) for _, inside, *_ in self.made]
