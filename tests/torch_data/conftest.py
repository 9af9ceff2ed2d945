"""What the tests of `foliocache.torch` share. They need PyTorch, which no extra installs: see CONTRIBUTING.md."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)
collect_ignore: list[str] = []
