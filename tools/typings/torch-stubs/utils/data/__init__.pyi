from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

class Dataset(Generic[T_co]):
    def __getitem__(self, index: object) -> T_co: ...

class IterableDataset(Dataset[T_co]): ...
