"""Laplace approximations by laplace-torch, run by an interpreter that has it; `laplace.py` starts this file.

    PYTHON laplace_torch_worker.py PROBLEM.npz

The problem holds `x`, `y`, `x_new`, the weights `W0`, `b0`, ... (shape (out, in)) and `settings`, as JSON. One run
comes before all questions; then every line on the standard input asks for one more. An answer is a line of JSON:
seconds of fit and predict, by the wall and by the processor, and the log marginal likelihood.
"""

import itertools
import json
import os
import sys
import time
import warnings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before torch is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from laplace import Laplace  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def network(arrays, activation):
    """A multilayer perceptron with these weights."""
    parts = []
    for k in range(sum(name.startswith("W") for name in arrays)):
        weights, bias = (torch.as_tensor(arrays[f"{letter}{k}"]) for letter in "Wb")
        layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
        layer.load_state_dict({"weight": weights, "bias": bias})
        parts += [layer, ACTIVATIONS[activation]()]
    return torch.nn.Sequential(*parts[:-1]).eval()


def turn(arrays, settings):
    """Fit and predict once."""
    x, y, x_new = (torch.as_tensor(arrays[name]) for name in ("x", "y", "x_new"))
    model = network(arrays, settings["activation"])
    loader = DataLoader(TensorDataset(x, y), batch_size=settings["batch"] or len(x))
    clocks = [(time.perf_counter(), time.process_time())]
    la = Laplace(model, settings["likelihood"], prior_precision=1.0, **settings["options"])
    la.fit(loader)
    clocks.append((time.perf_counter(), time.process_time()))
    la(x_new, pred_type="glm", link_approx="probit")
    clocks.append((time.perf_counter(), time.process_time()))
    fit, predict = ([b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(clocks))
    return {"fit": fit, "predict": predict, "evidence": float(la.log_marginal_likelihood())}


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with np.load(sys.argv[1]) as file:
        arrays = dict(file)
    settings = json.loads(str(arrays.pop("settings")))
    print(json.dumps(turn(arrays, settings)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn(arrays, settings)), flush=True)


if __name__ == "__main__":
    main()
