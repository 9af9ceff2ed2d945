"""Samples that are made once per machine, through PyTorch's own loaders."""

import functools
import gc
import os
import re
import warnings
from pathlib import Path

import numpy
import pytest

import foliocache

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)

import samples  # noqa: E402

from foliocache.adapters.torch import leftovers  # noqa: E402
from foliocache.adapters.torch.leftovers import QUIET  # noqa: E402
from foliocache.objects import keys  # noqa: E402
from foliocache.torch import SharedDataset, cached  # noqa: E402

LIMIT = 200  # seconds


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def shared(pool_name):
    pool = foliocache.open(pool_name, size="16MiB")
    yield pool
    assert pool.audit() == []


def made(log):
    """The samples that were made, in order, and the processes that made them."""
    lines = [line.split() for line in Path(log).read_text().splitlines()] if os.path.exists(log) else []
    return sorted(int(index) for _, index in lines), {int(pid) for pid, _ in lines}


def load(dataset, **options):
    """Batches of two epochs by forked workers."""
    options = {
        "num_workers": 2,
        "batch_size": 4,
        "multiprocessing_context": "fork",
        "shuffle": True,
        "timeout": LIMIT,
        **options,
    }
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than processors
        loader = torch.utils.data.DataLoader(dataset, **options)
        return [batch for _ in range(2) for batch in loader]


VALUES = {
    "tensor": torch.arange(10.0),
    "empty tensor": torch.empty(0, 3),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "complex": torch.ones(2, 2, dtype=torch.complex64),
    "not contiguous": torch.arange(12).reshape(3, 4).T,
    "scalar": torch.tensor(7),
    "gradient": torch.ones(3, requires_grad=True),
    "sparse": torch.eye(3).to_sparse(),
    "conjugate": torch.ones(3, dtype=torch.complex64).conj(),
    "large": torch.arange(600_000),
    "array": numpy.arange(5000),
    "nothing": None,
    "nested": {"a": (torch.arange(3), [1, {"b": numpy.ones(4)}]), "c": "text"},
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.to_dense(), b.to_dense())
    if isinstance(a, numpy.ndarray):
        return numpy.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("name", VALUES)
def test_a_sample_is_what_the_dataset_returns(shared, name):
    value = VALUES[name]
    dataset = SharedDataset([value], shared, name)
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "Sparse invariant checks")
        assert equal(dataset[0], value) and equal(dataset[0], value)


IMAGE = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
STRIDED = {
    "channels last": IMAGE.to(memory_format=torch.channels_last),
    "one image": IMAGE[:1].to(memory_format=torch.channels_last),
    "transposed": IMAGE.permute(3, 1, 0, 2),
    "bfloat16": IMAGE[0, 0].T.to(torch.bfloat16),
    "large": torch.arange(600_000).reshape(2, 300_000).T,
    "many dimensions": torch.arange(2**18).reshape((2,) * 18).permute(tuple(range(18))[::-1]),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("options", [{}, {"writable": None}])
def test_dense_tensors_keep_their_strides(shared, name, within, options):
    value = STRIDED[name]
    dataset = SharedDataset([[value] if within else value], shared, f"strides {name} {within} {options}", **options)
    for _ in range(2):  # made, then found
        found = dataset[0][0] if within else dataset[0]
        assert found.stride() == value.stride() and equal(found, value)
    if not options:
        found += 1
        assert equal(dataset[0][0] if within else dataset[0], value)


def test_other_tensors_are_kept_in_c_order(shared):
    for value in (IMAGE[..., ::2], torch.ones(1, 3).expand(5, 3), torch.empty(0, 3).T):
        found = SharedDataset([value], shared, f"sparse {value.shape}")[0]
        assert found.is_contiguous() and equal(found, value)


def test_strided_tensors_are_read_without_unpickling(shared):
    dataset = SharedDataset([STRIDED["channels last"]], shared, "strided arrays", loads="arrays")
    assert dataset[0].stride() == dataset[0].stride() == STRIDED["channels last"].stride()


def test_a_tensor_of_tensors_is_kept(shared):
    with warnings.catch_warnings(action="ignore"):  # of its future
        value = torch.nested.nested_tensor([torch.ones(2), torch.arange(3.0)])
    dataset = SharedDataset([value], shared, "nested tensor")
    for found in (dataset[0], dataset[0]):
        assert found.is_nested and all(map(equal, found.unbind(), value.unbind()))


def test_a_mapping_is_a_buffer_for_tensors(shared):
    """PyTorch asks for its bytes while the error of a first try is set, releases them, and keeps the mapping."""
    content = bytes(range(256)) * 1000
    mapping = shared.mapping("buffer", len(content), "1", lambda offset, length: content[offset : offset + length])
    with warnings.catch_warnings(action="ignore"):  # that it is read-only
        tensor = torch.frombuffer(mapping, dtype=torch.uint8)
    del mapping
    assert tensor.numpy().tobytes() == content
    del tensor
    assert shared.stat().pins == 0


@pytest.mark.parametrize(
    "wrong", [{"expiry": -1}, {"loads": "x"}, {"writable": True}, {"version": 1}, {"pool": "a name"}, {"transform": 5}]
)
def test_options_are_checked_where_they_are_given(shared, wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        SharedDataset([1], **{"pool": shared, "key": "k", **wrong})
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        cached(**{"transform": abs, "pool": shared, **wrong})


def writable_parts(sample):
    if isinstance(sample, dict):
        sample = list(sample.values())
    if isinstance(sample, (tuple, list)):
        return [part for each in sample for part in writable_parts(each)]
    return [sample] if isinstance(sample, (torch.Tensor, numpy.ndarray)) else []


@pytest.mark.parametrize("name", ["tensor", "large", "array", "nested", "scalar"])
def test_a_sample_may_be_written_to(shared, name):
    dataset = SharedDataset([VALUES[name]], shared, f"written-{name}")
    first, second = dataset[0], dataset[0]
    for part in writable_parts(first) + writable_parts(second):
        part *= 0
    assert all(not part.any() for part in writable_parts(first))
    assert equal(dataset[0], VALUES[name])


class ByText:
    """A dataset of whatever it is asked for."""

    def __getitem__(self, index):
        return torch.tensor([float(len(str(index)))])


def test_no_other_dataset_or_transform_has_a_samples_name(shared):
    """Keys and samples are cut differently, and joined by what stands between them."""
    kept = set()
    for key in ("d", "d:", "d:'b", "d:'b:5", ":d", "1", "'b", ":", "::3:d:'", "3:d:x", "torch"):
        for sample in ("5", "b:5", ":5", "'b:5", "b", "3:d:'b:5", "d:x:5", 5, 1, (5,)):
            kept.add(SharedDataset(ByText(), shared, key)._known_by(sample)[1])
            kept.add((made := cached(abs, shared, key=key, sample_key=str))._key + made._of(sample))
            kept.add((made := cached(abs, shared, key=key))._key + made._of(sample))
    assert len(kept) == 11 * (10 + 9 + 10)  # "5" and 5 are one for sample_key=str
    dataset, other = SharedDataset(ByText(), shared, "train"), cached(lambda text: -1, shared, key="train", sample_key=str)
    assert [float(dataset["a.jpg"]), other("a.jpg"), float(dataset["a.jpg"])] == [5, -1, 5]
    for wrong in ("", 5):
        with pytest.raises(ValueError, match="must be a string that is not empty"):
            cached(abs, shared, key=wrong)


def test_names_of_samples_stay_as_they_are(shared):
    """Pools outlive versions of this library."""
    dataset = SharedDataset([0] * 9, shared, "images")
    assert dataset._known_by(8) == (8, "torch:images:8") and dataset._known_by_all([3])[0][1] == "torch:images:3"
    assert SharedDataset(ByText(), shared, "a'b/c")._known_by("x") == ("x", "torch:a'b/c:'x")
    assert cached(abs, shared, sample_key=str)._key == f"torch:{keys.digest(abs)}:"


def test_transforms_that_hold_other_things_share_nothing(shared):
    for value in (1, 2):
        for held in (
            functools.partial(torch.add, other=value),
            samples.Adder(value).add,
            functools.cache(samples.Adder(value).add),
        ):
            assert float(cached(held, shared)(torch.ones(1))) == 1 + value


@pytest.mark.parametrize(("base", "method"), [("object", "__call__"), ("torch.nn.Module", "forward")])
def test_a_change_of_what_an_object_runs_is_another_transform(shared, monkeypatch, base, method):
    results = []
    for body in ("x + 1", "x + 2", "x + 1"):
        space = {"__name__": __name__, "torch": torch}
        exec(f"class Changed({base}):\n    def {method}(self, x): return {body}", space)
        monkeypatch.setitem(globals(), "Changed", space["Changed"])
        results.append(cached(space["Changed"](), shared)(1))
    assert results == [2, 3, 2]


def test_an_object_may_hold_functions_without_a_name(shared):
    first, second = (samples.Chain([lambda x: x + 1, functools.partial(lambda x, by: x * by, by=by)]) for by in (2, 3))
    assert (cached(first, shared)(1), cached(second, shared)(1)) == (4, 6)


@pytest.mark.parametrize("kind", ["tensor", "nested"])
@pytest.mark.parametrize("batched", [False, True])
def test_a_sample_without_room_may_be_written_to_as_others(shared, kind, batched):
    tensor = torch.zeros(5 << 20)  # more than the pool has room for
    data = [tensor if kind == "tensor" else {"image": tensor}]
    added = SharedDataset(
        data, shared, f"{kind} {batched}", transform=lambda sample: (sample if kind == "tensor" else sample["image"]).add_(1)
    )
    for _ in range(2):
        found = added.__getitems__([0])[0] if batched else added[0]
        assert (float(found[0]), float(tensor[0])) == (1, 0)


def test_workers_make_each_sample_once(shared, log):
    dataset = SharedDataset(samples.Samples(log), shared, "images")
    for options in ({"persistent_workers": True}, {"batch_size": None}, {"collate_fn": samples.as_they_are}):
        batches = load(dataset, **options)
        labels = [label for batch in batches for label in labels_of(batch)]
        assert sorted(labels) == sorted(2 * list(range(24)))
        images_of(batches[0])[0].sub_(1)
    assert made(log)[0] == list(range(24)) and os.getpid() not in made(log)[1]
    assert shared.stat().pins == 0


def labels_of(batch):
    batch = batch if isinstance(batch, list) else [batch]
    return [int(label) for each in batch for label in torch.as_tensor(each["label"]).reshape(-1)]


def images_of(batch):
    return [each["image"] for each in (batch if isinstance(batch, list) else [batch])]


def test_what_the_workers_return_is_right(shared, log):
    plain = samples.Samples(log)
    dataset = SharedDataset(plain, shared, "images", transform=samples.subtract)
    for batch in load(dataset):
        for place, label in enumerate(batch["label"].tolist()):
            assert torch.equal(batch["image"][place], plain[label]["image"] - 1)
            assert int(batch["more"][1][0][place]) == label


def test_samples_held_through_a_fork_stay(shared, log):
    dataset = SharedDataset(samples.Samples(log), shared, "images")
    held, large = dataset[3], SharedDataset([torch.arange(600_000)], shared, "large")[0]
    load(dataset)
    held["image"].sub_(1)
    large.sub_(1)
    assert int(held["image"][0, 0, 1]) == 3 and int(large[-1]) == 599_998


def test_batches_are_made_in_one_call(shared, log):
    dataset = SharedDataset(samples.Batched(log), shared, "images")
    assert [each["label"] for each in dataset.__getitems__([4, 2, 4, 23])] == [4, 2, 4, 23]
    first, second = dataset.__getitems__([4, 4])
    first["image"].zero_()
    assert int(second["image"][0, 0, 0]) == 4
    load(dataset, shuffle=False)
    calls = Path(log + ".calls").read_text().splitlines()
    assert calls[0] == "[2, 4, 23]" and "[0, 1, 3]" in calls and "[20, 21, 22]" in calls
    assert made(log)[0] == list(range(24))


def test_a_batch_that_fails_tells_why(shared, log):
    class Short(samples.Batched):
        def __getitems__(self, indices):
            return []

    class Broken(samples.Batched):
        def __getitems__(self, indices):
            raise OSError(5, "the disk is gone")

    with pytest.raises(ValueError, match="0 samples for 2 indices"):
        SharedDataset(Short(log), shared, "short").__getitems__([0, 1])
    with pytest.raises(OSError, match="the disk is gone"):
        SharedDataset(Broken(log), shared, "broken").__getitems__([0, 1])
    assert SharedDataset(samples.Batched(log), shared, "short").__getitems__([0, 1])[1]["label"] == 1


def failure(dataset):
    """Load, and return the text of the error. The loader is gone then, and with it its workers."""
    try:
        load(dataset, shuffle=False)
    except Exception as error:
        told = str(error)
    gc.collect()
    return told


def test_what_making_left_is_given_back_once_nothing_is_made(shared, log, monkeypatch):
    trims = []
    monkeypatch.setattr("foliocache.adapters.torch.leftovers.trim", lambda: trims.append(1))
    made = SharedDataset(samples.Samples(log), shared, "left")
    for _ in range(2):
        made[0], made[1]
    for _ in range(QUIET - 3):
        made[0]
    assert trims == []
    made[1]
    assert trims == [1]
    for _ in range(2 * QUIET):
        made[0]
    assert trims == [1]
    made.__getitems__([0, 2] * QUIET)  # some of these are made
    made.__getitems__([0, 2] * (QUIET // 2 - 1))
    made[0]
    assert trims == [1]
    made.__getitems__([2, 0, 0])
    assert trims == [1, 1]
    monkeypatch.undo()
    leftovers.trim()


def test_a_killed_worker_harms_nobody(shared, log):
    dataset = SharedDataset(samples.Deadly(log), shared, "images")
    assert re.search("killed by signal|exited unexpectedly", failure(dataset))
    assert len(load(dataset)) == 12
    assert made(log)[0] == list(range(24))


def test_an_error_of_the_dataset_is_the_callers(shared, log):
    dataset = SharedDataset(samples.Failing(log), shared, "images")
    with pytest.raises(OSError, match="the disk is gone"):
        dataset[3]
    with pytest.raises(OSError, match="the disk is gone"):
        load(dataset, num_workers=0, timeout=0, multiprocessing_context=None, shuffle=False)
    letters = SharedDataset(list("abc"), shared, "few letters")
    for index in (3, -4, 10**30):
        with pytest.raises(IndexError, match="index"):
            letters[index]


def test_indices_of_every_kind(shared):
    class Anything:
        def __getitem__(self, index):
            return [index]

    dataset = SharedDataset(Anything(), shared, "anything")
    for index in (3, numpy.int64(3), torch.tensor(3), "3", "'3", (1, 2), 2.5, -1, slice(1, 3)):
        assert dataset[index] == [index] and dataset[index] == [index]
    assert type(dataset[numpy.int64(3)][0]) is int
    tail = SharedDataset(list("abc"), shared, "letters")
    assert (tail[-1], tail[2], list(tail), len(tail)) == ("c", "c", ["a", "b", "c"], 3)


@pytest.mark.parametrize("batched", [False, True])
def test_numbers_need_not_be_places(shared, batched):
    class Named(dict):
        if batched:

            def __getitems__(self, indices):
                return [self[index] for index in indices]

    named = Named({-1: "a", 7: "b", 0: "c", 10**30: "d"})
    dataset = SharedDataset(named, shared, f"named {batched}")
    for _ in range(2):
        assert dataset.__getitems__(list(named)) == [dataset[number] for number in named] == list(named.values())
    for loaded in (torch.utils.data.DataLoader(each, batch_size=None, sampler=[7, 1]) for each in (named, dataset)):
        with pytest.raises(KeyError, match=r"^1$"):
            list(loaded)


def test_versions_and_keys_are_apart(shared):
    a = SharedDataset([1], shared, "x", version="1")
    b = SharedDataset([2], shared, "x", version="2")
    c = SharedDataset([3], shared, "y", version="1")
    assert (a[0], b[0], c[0], SharedDataset([4], shared, "x", version="1")[0]) == (1, 2, 3, 1)


def test_what_is_no_map_style_dataset_is_refused(shared):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    for wrong in (Stream(), iter(())):
        with pytest.raises(TypeError, match="not a map-style dataset"):
            SharedDataset(wrong, shared, "x")
    for key in ("", None, 3):
        with pytest.raises(ValueError, match="key of a dataset"):
            SharedDataset([1], shared, key)
    with pytest.raises(ValueError, match='writable must be "copy"'):
        SharedDataset([torch.ones(1)], shared, "w", writable="yes")[0]


def test_only_arrays_when_asked(shared):
    dataset = SharedDataset([torch.arange(3)], shared, "arrays", loads="arrays")
    assert dataset[0].tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match="arrays or bytes alone"):
        SharedDataset([{"a": 1}], shared, "dicts", loads="arrays")[0]


def test_spawned_workers_that_persist(shared, log, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # in the workers
    dataset = SharedDataset(samples.Samples(log), shared, "images", transform=samples.subtract)
    batches = load(dataset, multiprocessing_context="spawn", persistent_workers=True, num_workers=1)
    assert sorted(label for batch in batches for label in labels_of(batch)) == sorted(2 * list(range(24)))
    assert made(log)[0] == list(range(24)) and os.getpid() not in made(log)[1]
    assert capfd.readouterr().err == ""


def test_a_loader_with_a_state(shared, log):
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed (CONTRIBUTING.md, PyTorch)"
    )
    dataset = SharedDataset(samples.Samples(log), shared, "images")

    def loader():
        with warnings.catch_warnings(action="ignore"):  # of its own use of PyTorch
            return stateful.StatefulDataLoader(
                dataset, batch_size=4, shuffle=True, num_workers=2, multiprocessing_context="fork", timeout=LIMIT
            )

    loading = loader()
    iterator = iter(loading)
    next(iterator)
    state = loading.state_dict()
    rest = [labels_of(batch) for batch in iterator]
    again = loader()
    again.load_state_dict(state)
    assert [labels_of(batch) for batch in again] == rest and len(rest) == 5
    assert made(log)[0] == list(range(24))


@pytest.mark.parametrize("writable", ["copy", None])
def test_samples_that_are_to_be_pinned(shared, log, writable):
    """Without an accelerator, PyTorch warns that it pins nothing; nothing else warns."""
    plain = samples.Samples(log)
    dataset = SharedDataset(plain, shared, f"pinned-{writable}", writable=writable)
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator")
        batches = list(torch.utils.data.DataLoader(dataset, batch_size=6, pin_memory=True))
        single = list(torch.utils.data.DataLoader(dataset, batch_size=None, pin_memory=True))
    for n in range(24):
        for image in (batches[n // 6]["image"][n % 6], single[n]["image"]):
            assert torch.equal(image, plain[n]["image"])
    assert batches[0]["image"].is_pinned() == torch.accelerator.is_available()


class Halve:
    """A transform with a state."""

    def __init__(self, log, by=2):
        self.log, self.by = log, by

    def __call__(self, tensor):
        with open(self.log, "a") as file:
            file.write("0 0\n")
        return tensor / self.by


def test_a_transform_is_applied_once(shared, log):
    image = torch.arange(5000.0)
    halve = cached(Halve(log), shared)
    for _ in range(2):
        result = halve(image.clone())
        assert torch.equal(result, image / 2)
        result.zero_()
    assert len(made(log)[0]) == 1
    assert torch.equal(cached(Halve(log, 4), shared)(image), image / 4)
    assert torch.equal(halve(image + 1), (image + 1) / 2)


def test_transforms_are_told_apart_by_what_they_do(shared):
    three, four = 3, 4
    twice, thrice = cached(lambda x: x * 2, shared), cached(lambda x: x * three, shared)
    assert (twice(5), thrice(5), cached(lambda x: x * four, shared)(5)) == (10, 15, 20)
    named = cached(str, shared, key="named", sample_key=lambda sample: str(sample["id"]))
    assert named({"id": 1, "x": 2}) == named({"id": 1, "x": 3}) == "{'id': 1, 'x': 2}"


def test_a_transform_that_cannot_be_named_is_refused(shared):
    lock = __import__("threading").Lock()
    with pytest.raises(TypeError, match="Give key="):
        cached(lambda x: (x, lock), shared)
    assert cached(lambda x: x + bool(lock), shared, key="k")(1) == 2
    with pytest.raises(TypeError, match="must be callable"):
        cached(3, shared)
    with pytest.raises(TypeError, match="must return a string"):
        cached(str, shared, sample_key=len)("abc")


def test_a_transform_within_a_dataset_of_workers(shared, log):
    class Plain(torch.utils.data.Dataset):
        transform = cached(Halve(log), shared)

        def __len__(self):
            return 8

        def __getitem__(self, index):
            return self.transform(torch.full((50,), float(index)))

    batches = load(Plain())
    assert sorted(batch[place, 0].item() for batch in batches for place in range(4)) == sorted(2 * [n / 2 for n in range(8)])
    assert len(made(log)[0]) == 8
