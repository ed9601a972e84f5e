import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import language_model as experiment
from experiments.networks import Transformer, generate


@pytest.mark.slow
def test_every_method_has_its_row(record):
    names = [experiment.named(scale) for scale in experiment.TINY["scales"]]
    assert record.column("method").tolist() == ["MLE", *names, "Ensemble"]
    assert np.all(record.column("nats") < np.log(100))
    np.testing.assert_allclose(record.column("bits") * np.log(2), record.column("nats"))
    assert record.rows[0]["from MLE"] == 0.0


@pytest.mark.slow
def test_a_wide_prior_is_as_good_as_none_and_a_tight_one_is_not_chosen(record):
    tight, wide = (row["nats"] for row in record.rows[1:3])
    assert wide == pytest.approx(record.rows[0]["nats"], abs=1e-2)
    assert tight > wide
    assert f"s = {experiment.TINY['scales'][1]:g} reads the choosing text best" in str(record)


@pytest.mark.parametrize("length", [129, 130, 192, 193])
def test_every_character_but_the_first_is_read_once(length):
    """Whatever is left over beyond whole windows; here each character tells its own place."""
    text, context = np.arange(length, dtype=np.int32), 64

    def apply(params, seen):
        return jax.nn.one_hot(seen + 1, length) * params  # sure of the successor

    def broken(params, seen):
        return jnp.where(seen[..., None] == 99, 0.0, apply(params, seen))

    found = experiment.Reader(apply, context)(50.0, text)
    assert found.shape == (length - 1,)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    found = experiment.Reader(broken, context)(50.0, text)
    np.testing.assert_allclose(found, np.where(text[:-1] == 99, -np.log(length), 0.0), atol=1e-5)


def test_windows_lie_end_to_end():
    seen, following = experiment.windows(np.arange(11), 3)
    np.testing.assert_array_equal(seen.ravel(), np.arange(9))
    np.testing.assert_array_equal(following, seen + 1)


def test_every_epoch_cuts_the_text_elsewhere_and_sees_each_character_once():
    text = np.arange(100, dtype=np.int32)
    stream = experiment.cut_anew(text, 8, seed=0)
    places = set()
    for epoch in range(5):
        seen, following = next(stream.source.pieces(None, epoch, 0))
        np.testing.assert_array_equal(following, seen + 1)
        assert seen.shape == (len(stream), 8) == (11, 8)
        places.add(begin := seen.min())
        np.testing.assert_array_equal(np.sort(seen.ravel()), begin + np.arange(88))
    assert len(places) > 2


def test_parts_of_a_text_are_apart(tmp_path):
    file = tmp_path / "abc.txt"
    file.write_text("abca" * 50 + "é", encoding="utf-8")
    text = experiment.read_text(str(file), 0)
    assert text.characters == "abcé"
    assert text.read(np.concatenate([text.choosing, text.fitted, text.scored])) == file.read_text(encoding="utf-8")
    assert [len(part) for part in (text.choosing, text.fitted, text.scored)] == [10, 170, 21]
    assert len(experiment.read_text(str(file), 40).fitted) == 34


def test_no_reference_data_means_the_manual(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXMAP_REFERENCE_DATA", str(tmp_path))
    assert experiment.read_text("shakespeare", 1000).name == "pydoc"
    (tmp_path / "text").mkdir()
    (tmp_path / experiment.SHAKESPEARE).write_text("To be, or not to be", encoding="utf-8")
    assert experiment.read_text("shakespeare", 0).name == "tinyshakespeare"


def test_a_position_sees_nothing_that_follows():
    module = Transformer(7, 6, 1, 2, 8, nnx.Rngs(0))
    network = jax.jit(lambda text: module(text))
    text = jnp.arange(6)[None]
    before, after = network(text), network(text.at[0, 3].set(0))
    np.testing.assert_array_equal(before[0, :3], after[0, :3])
    assert jnp.all(jnp.any(before[0, 3:] != after[0, 3:], axis=1))


def test_samples_follow_the_probabilities_beyond_the_context():
    """A network that counts on from the last character, modulo 5, whatever came before."""
    apply = lambda params, text: 50.0 * jax.nn.one_hot((text + 1) % 5, 5)
    drawn = generate(jax.random.key(0), apply, None, np.array([3, 4]), 9, 4)
    np.testing.assert_array_equal(drawn, (3 + np.arange(11)) % 5)


def test_texts_that_cannot_be_read_or_are_too_short_are_refused_in_words(tmp_path):
    file = tmp_path / "notes.txt"
    with pytest.raises(ValueError, match="there is none at"):
        experiment.read_text(str(file), 0)
    file.write_bytes("café ".encode("latin-1"))
    with pytest.raises(ValueError, match="Expected a text in UTF-8"):
        experiment.read_text(str(file), 0)
    file.write_text("to be or not to be " * 60)
    with pytest.raises(ValueError, match="Give a longer one"):
        experiment.run(experiment.Config(text=str(file)))


def test_every_character_of_a_file_is_one_of_the_text(tmp_path):
    """Also the one whose number is zero, and one beyond 16 bits."""
    content = "a\0b c\U0001f600" * 50
    (tmp_path / "odd.txt").write_text(content, encoding="utf-8")
    text = experiment.read_text(str(tmp_path / "odd.txt"), 0)
    assert text.read(np.concatenate([text.choosing, text.fitted, text.scored])) == content


def test_the_stream_says_that_each_epoch_shows_other_windows():
    assert experiment.cut_anew(np.arange(100, dtype=np.int32), 8, seed=0).augmented


def test_the_normalizer_is_the_priors_density_at_zero_weights():
    config = experiment.Config(**experiment.TINY)
    model = experiment.make_model(config, 7, 3.0)
    nothing = jax.tree.map(jnp.zeros_like, model.start)
    np.testing.assert_allclose(experiment.normalizer(model.start, 3.0), -float(model.log_prior(nothing)), rtol=1e-5)
