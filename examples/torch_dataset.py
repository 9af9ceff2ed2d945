"""Four workers of a DataLoader load a dataset twice. Each sample is made once, by one of them.

python examples/torch_dataset.py
"""

import sys
import tempfile
import warnings
from pathlib import Path

import foliocache

try:
    import torch
    import torch.utils.data

    from foliocache.torch import SharedDataset
except ImportError:
    sys.exit("this needs PyTorch: pip install torch")

NAME = "example-torch"


class Squares(torch.utils.data.Dataset):
    """Samples that take long to make. Each making is noted in a file."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, object]:
        with open(self.log, "a") as file:
            file.write(".")
        return {"image": torch.full((3, 64, 64), float(index)) ** 2, "label": index}


def brighter(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An augmentation. It may write to the sample, and its result is not kept."""
    sample["image"].add_(torch.rand(()))
    return sample


def main() -> None:
    pool = foliocache.open(NAME, size="64MiB")
    try:
        with tempfile.NamedTemporaryFile() as log:
            dataset = SharedDataset(Squares(log.name), pool, "squares", transform=brighter)
            with warnings.catch_warnings(action="ignore"):  # of more workers than processors
                loader = torch.utils.data.DataLoader(
                    dataset, batch_size=8, shuffle=True, num_workers=4, persistent_workers=True, multiprocessing_context="fork"
                )
                loaded = [len(batch["label"]) for _ in range(2) for batch in loader]
                del loader
            print(f"{sum(loaded)} samples loaded, {Path(log.name).stat().st_size} made")
    finally:
        foliocache.remove(NAME)


if __name__ == "__main__":
    main()
