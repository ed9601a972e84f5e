"""Does the table model of the command line predict house prices better than ridge regression?

    python -m experiments.benchmarks.house_prices [--data FILE] [--splits N]

Ames: 2930 sales, 73 mixed columns, the log of the price; a random 20 % held out, the splits of `jaxmap compare`. The
model is what `jaxmap compare FILE --target Sale_Price` fits with no other option, by MAP, and predicts by its median.
Beside it scikit-learn's ridge regression, its penalty by generalised cross-validation on the training rows: on plain
one-hot columns, standardised, and on the columns as jaxmap codes them (logarithms of skewed ones, for example).
"""

import argparse

import jax
import numpy as np
from sklearn.linear_model import RidgeCV

import jaxmap as jm
from jaxmap import data
from jaxmap.cli.job import Job, prepare

PENALTIES = np.logspace(-2, 4, 25)
DEFAULTS = {
    "target": "Sale_Price",
    "network": "auto",
    "drop": (),
    "category": (),
    "missing": "refuse",
    "task": "auto",
    "log_target": "auto",
    "weight_scale": None,
}
"""What the command line takes where nothing is said."""


def one_hot(table: data.Table, train: np.ndarray) -> np.ndarray:
    """Numbers as they are, a 0/1 column for each level of the others; standardised on the training rows."""
    columns = []
    for name, cells in table.columns.items():
        if name == DEFAULTS["target"]:
            continue
        try:
            columns.append(cells.astype(float)[:, None])
        except ValueError:
            columns.append(np.stack([cells == level for level in sorted(set(cells))], axis=1).astype(float))
    x = np.concatenate(columns, axis=1)
    scale = x[train].std(axis=0)
    return (x - x[train].mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def errors(job: Job) -> dict[str, float]:
    """Root mean squared errors of the log price on the test rows of one split."""
    ((x, y), (test_x, test_y)), (train, test) = job.pairs()[0], job.splits[0]
    model = job.design((x, y)).model()
    point = jm.fit(jax.random.key(0), model, (x, y), jm.MAP(), progress=False, precision=job.precision)
    median = jm.predict(jax.random.key(0), model, point, test_x).quantile(0.5)
    plain = one_hot(job.table, train)
    predicted = {
        "jaxmap": np.log(median),
        "ridge, one-hot": RidgeCV(PENALTIES).fit(plain[train], np.log(y)).predict(plain[test]),
        "ridge, our columns": RidgeCV(PENALTIES).fit(x, np.log(y)).predict(test_x),
    }
    return {name: float(np.sqrt(np.mean((values - np.log(test_y)) ** 2))) for name, values in predicted.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="../shared/data/tabular/ames.csv.gz")
    parser.add_argument("--splits", type=int, default=10)
    given = parser.parse_args(arguments)
    table = data.read_table(given.data)
    found = [errors(prepare(table, dict(DEFAULTS), share=0.2, split=i)) for i in range(given.splits)]
    print("RMSE of log price by split:")
    for name in found[0]:
        values = np.array([one[name] for one in found])
        best = np.sum(values <= np.array([min(one.values()) for one in found]))
        listed = " ".join(f"{value:.4f}" for value in values)
        print(f"{name:20} {listed}   mean {values.mean():.4f}, the least on {best} of {given.splits}")


if __name__ == "__main__":
    main()
