"""Does a prior help a Transformer that reads a text character by character?

A decoder-only Transformer (`experiments/networks/transformer.py`) learns the next character of Tiny Shakespeare, in the
configuration that nanoGPT gives for a CPU: 4 layers, 4 heads, 128 wide, 64 characters of context, 2000 steps of Adam on
batches of 12 windows, no dropout. MLE stands beside MAP with N(0, s^2) on every weight (norms keep a flat prior) for
several s, and an ensemble of MAP estimates at the chosen s.

What an example is. The log-likelihood is a sum over predicted characters, and N is their number,

    log p(text | params) = sum over t of log p(c_t | characters before it in its window, params).

The text is cut end to end into windows, so that each character is predicted once. A row of the data is a window, whose
characters can only be computed together; its log-likelihood is their sum. A batch of B windows stands for all W by the
factor W / B, which is N / (64 B), and the prior is counted once: a weight decay d added to a mean over characters, as
deep-learning code writes it, is `jm.weight_decay(d, per="mean", num_examples=N)` with N = 64 W, and s = 1 / sqrt(N d).
The optimizer sees nats per window; Adam does not mind, and the bound on the gradient is set per character.

How far back a character's window reaches depends on where the text is cut. Every epoch cuts it elsewhere (a
`jm.Stream`), so that what is maximised is the mean of that log-likelihood over the 64 ways to cut: N stays what it is.

The last tenth of the text is scored, whole; s is chosen on the first twentieth, which no network is fitted to either.
Without Tiny Shakespeare (`../shared/data/text`) the text is that of Python's manual as it ships in `pydoc_data.topics`.

    python -m experiments.language_model --save FOLDER
    python -m experiments.language_model --text notes.txt --steps 500
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from scipy.special import logsumexp

import jaxmap as jm
from experiments.networks import Transformer, generate
from experiments.record import Record, color, command, panels
from jaxmap.trees import named_leaves


@dataclass(frozen=True)
class Config:
    """What to run; the defaults are the full experiment."""

    text: str = "shakespeare"  # or "pydoc", or a file
    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 64
    steps: int = 2000
    batch_size: int = 12  # windows
    rate: float = 1e-3
    last_rate: float = 1e-4
    warmup: int = 100  # steps over which the rate grows from zero
    scales: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)  # s, among which the held-out text chooses
    members: int = 3  # of the ensemble
    drawn: int = 400  # characters of a sample
    most: int = 0  # characters to read; 0 for all
    seed: int = 0


TINY = {"text": "pydoc", "layers": 1, "heads": 2, "width": 16, "context": 16, "steps": 60, "warmup": 10}
TINY |= {"scales": (0.03, 1.0), "members": 2, "drawn": 30, "most": 20_000}
"""What the tests run."""

SHAKESPEARE = "text/tinyshakespeare.txt"
SCORED, CHOOSING = 0.1, 0.05
"""Shares of the text: the last part is scored, the first one chooses the prior."""


@dataclass(frozen=True)
class Text:
    """A text as numbers.

    Attributes:
        name: where it comes from.
        characters: number k stands for the k-th.
        choosing, fitted, scored: its three parts.
    """

    name: str
    characters: str
    choosing: np.ndarray
    fitted: np.ndarray
    scored: np.ndarray

    def read(self, numbers: np.ndarray) -> str:
        """Numbers as characters."""
        return "".join(self.characters[i] for i in numbers)


def read_text(name: str, most: int) -> Text:
    """Find a text and cut it into its parts.

    Args:
        name: "shakespeare", "pydoc" or a file in UTF-8.
        most: characters to keep; 0 for all.
    """
    if name == "shakespeare":
        file = Path(os.environ.get("JAXMAP_REFERENCE_DATA", "../shared/data")) / SHAKESPEARE
        name = str(file) if file.is_file() else "pydoc"
    if name == "pydoc":
        from pydoc_data.topics import topics

        content = "\n".join(topics[topic] for topic in sorted(topics))
    else:
        content = _content(Path(name))
    content = content[: most or None]
    codes, numbers = np.unique(np.frombuffer(content.encode("utf-32-le"), np.uint32), return_inverse=True)
    ends = [int(len(numbers) * share) for share in (CHOOSING, 1 - SCORED)]
    return Text(Path(name).stem, "".join(map(chr, codes)), *np.split(numbers.astype(np.int32), ends))


def _content(file: Path) -> str:
    """The text of a user's file.

    Raises:
        ValueError: no file, or not in UTF-8.
    """
    if not file.is_file():
        raise ValueError(f"Expected --text 'shakespeare', 'pydoc' or a file; there is none at {file}.")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected a text in UTF-8 in {file}; got {error}. Convert it first.") from error


def windows(text: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text end to end: characters seen, and those that follow, (W, context); what fills no window is left."""
    count = (len(text) - 1) // context * context
    return text[:count].reshape(-1, context), text[1 : count + 1].reshape(-1, context)


def cut_anew(text: np.ndarray, context: int, seed: int) -> jm.Stream:
    """The same number of windows in every epoch, cut at another place and in another order; at the beginning first."""
    count = (len(text) - context) // context

    def epoch(number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng([seed, number])
        begin, order = rng.integers(context) if number else 0, rng.permutation(count)
        yield tuple(part[:count][order] for part in windows(text[begin:], context))  # type: ignore[misc]

    return jm.Stream.of_batches(epoch, count, augmented=True)  # each window counts by the mean over its cuts


def make_model(config: Config, vocabulary: int, scale: float | None) -> jm.Model:
    """The network with N(0, scale^2) on its weights; None for a flat prior."""
    shape = (vocabulary, config.context, config.layers, config.heads, config.width)
    prior = None if scale is None else jm.Prior.by_path({"*": dist.Normal(0.0, scale), "*/scale": jm.flat})
    return jm.supervised(lambda rngs: Transformer(*shape, rngs), jm.Categorical(), prior)


def make_method(config: Config, kind: Any) -> Any:
    """The optimizer of nanoGPT: Adam with a warm-up and half a cosine, gradients of at most 1 per character."""
    rate = optax.warmup_cosine_decay_schedule(0.0, config.rate, config.warmup, config.steps, config.last_rate)
    solver = optax.chain(optax.clip_by_global_norm(float(config.context)), optax.adam(rate, b1=0.9, b2=0.99))
    return kind(solver, steps=config.steps, batch_size=config.batch_size)


class Reader:
    """The log-probability of each character of a text but the first, in nats."""

    def __init__(self, apply: Callable[[Any, Any], Any], context: int):
        self.context = context

        def each(params: Any, pair: Any) -> Any:
            seen, following = pair
            logs = jax.nn.log_softmax(apply(params, seen[None])[0])
            return jnp.take_along_axis(logs, following[:, None], axis=1)[:, 0]

        self.program = jax.jit(lambda params, pairs: jax.lax.map(partial(each, params), pairs, batch_size=128))

    def __call__(self, params: Any, text: np.ndarray) -> np.ndarray:
        """Windows end to end; the last one begins earlier, so that it is full, and what was read before is left out."""
        found = [np.asarray(self.program(params, windows(text, self.context)), np.float64).ravel()]
        rest = len(text) - 1 - found[0].size
        if rest:
            last = windows(text[-self.context - 1 :], self.context)
            found.append(np.asarray(self.program(params, last), np.float64).ravel()[-rest:])
        return np.concatenate(found)


def run(config: Config) -> Record:
    """MLE, MAP for every scale, and an ensemble at the scale that reads the choosing text best."""
    text, key = read_text(config.text, config.most), jax.random.key(config.seed)
    few = len(text.fitted) // config.context <= config.batch_size
    if few or min(len(text.choosing), len(text.scored)) <= config.context:
        raise ValueError(
            f"Expected a text of some thousand characters, for batches of {config.batch_size} windows of "
            f"{config.context} each; got {sum(map(len, (text.choosing, text.fitted, text.scored)))}. "
            "Give a longer one, or a shorter --context."
        )
    data = cut_anew(text.fitted, config.context, config.seed)
    free = make_model(config, len(text.characters), None)
    reader = Reader(free.apply, config.context)  # type: ignore[arg-type]
    points = {"MLE": jm.fit(key, free, data, make_method(config, jm.MLE))}
    for scale in config.scales:
        model = make_model(config, len(text.characters), scale)
        points[named(scale)] = jm.fit(key, model, data, make_method(config, jm.MAP))
    chosen_by = {name: float(-np.mean(reader(point.mode, text.choosing))) for name, point in points.items()}
    best = min(config.scales, key=lambda scale: chosen_by[named(scale)])
    members = [points[named(best)]]
    if config.members > 1:
        model = make_model(config, len(text.characters), best)
        others = jm.Ensemble(make_method(config, jm.MAP), members=config.members - 1)
        members += jm.fit(jax.random.fold_in(key, 1), model, data, others).members
    logs = {name: reader(point.mode, text.scored) for name, point in points.items()}
    together = np.stack([reader(member.mode, text.scored) for member in members])
    logs["Ensemble"] = logsumexp(together, axis=0) - np.log(len(members))
    fits = {name: [point] for name, point in points.items()} | {"Ensemble": members}
    rows = [row_of(name, fits[name], logs, chosen_by, len(data) * config.context, config) for name in fits]
    begun = text.scored[: config.context]
    drawn = generate(key, free.apply, members[0].mode, begun, config.drawn, config.context)
    notes = (
        *sentences(rows, best, text, config.context * len(data)),
        "A sample, begun with the scored text:",
        "",
        text.read(drawn),
    )
    title = (
        f"Next characters of {text.name}: {len(text.scored) - 1:,} scored, {config.context * len(data):,} learnt from"
    )
    histories = {name: point.info.history / config.context for name, point in points.items()}
    for scale in config.scales:
        histories[named(scale)] -= normalizer(points[named(scale)].mode, scale) / (len(data) * config.context)
    return Record(title, config, rows, lambda: draw(rows, histories), notes)


def normalizer(params: Any, scale: float) -> float:
    """What N(0, s^2) adds to the loss whatever the weights are, log(s sqrt(2 pi)) for each but the norms' scales."""
    weights = sum(leaf.size for path, leaf in named_leaves(params) if not path.endswith("/scale"))
    return weights * float(np.log(scale * np.sqrt(2 * np.pi)))


def named(scale: float) -> str:
    """The row of a prior."""
    return f"MAP, s = {scale:g}"


def row_of(
    name: str, fits: list[Any], logs: dict[str, np.ndarray], chosen_by: dict[str, float], count: int, config: Config
) -> dict[str, Any]:
    """One method; its difference from MLE is paired, with the standard error of a mean over windows."""
    away = logs["MLE"] - logs[name]
    parts = away[: len(away) // config.context * config.context].reshape(-1, config.context).mean(1)
    return {
        "method": name,
        "learnt text": float(np.mean([-fit.info.log_likelihood / count for fit in fits])),
        "choosing text": chosen_by.get(name),
        "nats": float(-np.mean(logs[name])),
        "bits": float(-np.mean(logs[name]) / np.log(2)),
        "from MLE": float(np.mean(away)),
        "se": float(np.std(parts, ddof=1) / np.sqrt(len(parts))),
        "gradients": float(sum(fit.info.num_gradients for fit in fits)),
        "seconds": float(sum(fit.info.seconds for fit in fits)),
    }


def sentences(rows: list[dict[str, Any]], best: float, text: Text, count: int) -> tuple[str, ...]:
    """What the numbers say."""
    by = {row["method"]: row for row in rows}
    chosen = by[named(best)]
    told = "no worse" if chosen["from MLE"] <= 2 * chosen["se"] else "worse"
    told += " (by less than a hundred-thousandth of a nat)" * (told == "worse" and chosen["from MLE"] < 1e-5)
    return (
        f"N = {count:,} characters; {len(text.characters)} different ones.",
        f"Nats and bits per character of the scored text. s = {best:g} reads the choosing text best; it is {told} than "
        f"MLE: {chosen['from MLE']:+.1e} ± {chosen['se']:.0e} nats.",
        f"The ensemble: {by['Ensemble']['from MLE']:+.4f} ± {by['Ensemble']['se']:.4f} nats from MLE.",
    )


def draw(rows: list[dict[str, Any]], histories: dict[str, np.ndarray]) -> Any:
    figure, (left, right) = panels("Learning", "The scored text", height=3.8)
    for i, (name, values) in enumerate(histories.items()):
        width = max(1, len(values) // 50)
        means = values[: len(values) // width * width].reshape(-1, width).mean(1)
        left.plot(width * (np.arange(len(means)) + 1), means, lw=1.3, color=color(i), label=name)
    left.set(xlabel="steps", ylabel="loss per character, w² / (2 s²) included, nats")
    left.legend(fontsize=8, frameon=False)
    for i, row in enumerate(rows):
        right.errorbar(row["from MLE"], i, xerr=2 * row["se"], fmt="o", capsize=3, color=color(i))
    right.axvline(0.0, color="#999999", lw=1.0, zorder=0)
    right.set(xlabel="nats per character less MLE's, ± 2 standard errors", ylabel="")
    right.set_yticks(range(len(rows)), [row["method"] for row in rows])
    right.invert_yaxis()
    return figure


main = command(__doc__, Config, run)

if __name__ == "__main__":
    main()
