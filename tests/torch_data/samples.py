"""Datasets for the tests, in a module of their own: spawned workers import it, too."""

import os
import signal

import torch
import torch.utils.data


class Samples(torch.utils.data.Dataset):
    """Nested samples, each of which depends on its index alone. Each making is noted in a file."""

    def __init__(self, log, size=24):
        self.log, self.size = log, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {index}\n")
        image = torch.arange(3 * 80 * 80, dtype=torch.float32).reshape(3, 80, 80) + index
        return {"image": image, "label": index, "more": ("text", [torch.tensor(index), torch.ones(2, dtype=torch.bfloat16)])}


class Batched(Samples):
    """The same, with ``__getitems__``, whose calls are noted, too."""

    def __getitems__(self, indices):
        with open(self.log + ".calls", "a") as file:
            file.write(f"{list(indices)}\n")
        return [self[index] for index in indices]


class Deadly(Samples):
    """The first process that makes sample 5 is killed while it does."""

    def __getitem__(self, index):
        if index == 5 and not os.path.exists(self.log + ".dead"):
            open(self.log + ".dead", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Failing(Samples):
    """No sample 3."""

    def __getitem__(self, index):
        if index == 3:
            raise OSError(5, "the disk is gone")
        return super().__getitem__(index)


class Adder:
    """A transform that is a method."""

    def __init__(self, amount):
        self.amount = amount

    def add(self, sample):
        return sample + self.amount


def subtract(sample):
    """An augmentation that writes to the sample."""
    sample["image"].sub_(1)
    return sample


def as_they_are(samples):
    return samples


class Chain:
    """Transforms one after the other."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, sample):
        for transform in self.transforms:
            sample = transform(sample)
        return sample
