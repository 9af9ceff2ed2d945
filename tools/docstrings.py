"""An extension of griffe: what a stub does not say in words, the compiled module does."""

import importlib
import inspect

import griffe


class OfTheCompiledModule(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring or not obj.filepath or not str(obj.filepath).endswith(".pyi"):
            return
        found = importlib.import_module(obj.module.path)
        for name in obj.path.removeprefix(f"{obj.module.path}").strip(".").split("."):
            found = getattr(found, name, None) if name else found
        text = inspect.getdoc(found)
        if text and not obj.is_module:
            obj.docstring = griffe.Docstring(text, parent=obj)
