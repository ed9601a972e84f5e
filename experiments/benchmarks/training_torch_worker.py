"""Training steps by PyTorch in eager mode, run by an interpreter that has it; `training_rivals.py` starts this file.

    PYTHON training_torch_worker.py PROBLEM.npz

The problem holds `x`, `y`, the start of each parameter under its path, and `settings` as JSON. The networks are those
of `experiments/networks`, written with torch.nn.functional, which has less to do per layer than modules. The first
answer is the loss of all examples at the start, so that the other side can see that the networks are the same. Then
every line on the standard input holds a number of steps, and whether they are those of a new network; the answer is the
seconds that they took, by the wall and by the processor.
"""

import json
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before torch is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402


def dense(p, name, x):
    return F.linear(x, p[f"{name}/kernel"], p.get(f"{name}/bias"))


def perceptron(p, x, settings):
    for k in range(settings["layers"] - 1):
        x = F.relu(dense(p, f"layers/{k}", x))
    return dense(p, f"layers/{settings['layers'] - 1}", x)


def transformer(p, text, settings):
    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], eps=1e-6)

    n, length = text.shape
    x = F.embedding(text, p["characters"]) + p["positions"][:length]
    for k in range(settings["layers"]):
        block = f"blocks/{k}"
        asked = dense(p, f"{block}/attention/ask", norm(f"{block}/before_attention", x))
        query, key, value = asked.reshape(n, length, 3, settings["heads"], -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + dense(p, f"{block}/attention/answer", seen.transpose(1, 2).reshape(n, length, -1))
        up = F.gelu(dense(p, f"{block}/up", norm(f"{block}/before_dense", x)), approximate="tanh")
        x = x + dense(p, f"{block}/down", up)
    return F.linear(norm("last_norm", x), p["characters"])


def resnet(p, x, settings):
    def norm(name, x):
        return F.relu(F.group_norm(x, settings["groups"], p[f"{name}/scale"], p[f"{name}/bias"]))

    def convolve(name, x, stride):
        return F.conv2d(x, p[f"{name}/kernel"], stride=stride, padding=1)

    x = convolve("stem", x, settings["stem"])
    for k, stride in enumerate(settings["strides"]):
        block = f"blocks/{k}"
        seen = norm(f"{block}/norms/0", x)
        short = f"{block}/short/kernel"
        if short in p:
            x = F.conv2d(seen, p[short], stride=stride)
        x = x + convolve(f"{block}/second", norm(f"{block}/norms/1", convolve(f"{block}/first", seen, stride)), 1)
    return dense(p, "head", norm("norm", x).mean((2, 3)))


NETWORKS = {"mlp": perceptron, "transformer": transformer, "resnet": resnet}


def parameter(path, array, settings):
    """A leaf in torch's layout: kernels lead with their outputs."""
    value = torch.as_tensor(array, device=settings["device"])
    if path.endswith("kernel"):
        value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
        if path.endswith("short/kernel"):
            value = value[:, :, None, None]
    value = value.contiguous()
    if settings.get("channels_last") and value.ndim == 4:
        value = value.to(memory_format=torch.channels_last)
    return value.clone().requires_grad_()


class Training:
    """A network with its optimizer and data."""

    def __init__(self, arrays, settings):
        self.settings = settings
        device = settings["device"]
        x, y = (torch.as_tensor(arrays.pop(name), device=device) for name in "xy")
        self.y = y.long()
        self.x = x if x.is_floating_point() else x.long()
        if settings["network"] == "resnet":
            self.x = self.x.permute(0, 3, 1, 2).contiguous()
            if settings["channels_last"]:
                self.x = self.x.to(memory_format=torch.channels_last)
        self.arrays = arrays
        self.begin()

    def begin(self):
        """A new network: the same start, a new optimizer."""
        self.p = {path: parameter(path, array, self.settings) for path, array in self.arrays.items()}
        options = {"lr": self.settings["rate"], "weight_decay": self.settings["decay"], "eps": 1e-8}
        self.optimizer = torch.optim.Adam(self.p.values(), fused=self.settings["fused"] or None, **options)

    def loss(self, rows):
        """Mean cross-entropy of these examples."""
        logits = NETWORKS[self.settings["network"]](self.p, self.x[rows], self.settings)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), self.y[rows].reshape(-1))

    def take(self, steps):
        """Steps of Adam; an epoch is a permutation, cut into batches."""
        size, done = self.settings["batch_size"], 0
        while done < steps:
            for rows in torch.randperm(len(self.y), device=self.y.device).split(size):
                if done == steps:
                    return
                self.optimizer.zero_grad(set_to_none=True)
                self.loss(rows).backward()
                self.optimizer.step()
                done += 1

    def wait(self):
        """Until the device has done what it was told."""
        if self.y.is_cuda:
            torch.cuda.synchronize()


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(sys.argv[1]) as file:
        arrays = dict(file)
    settings = json.loads(str(arrays.pop("settings")))
    torch.set_float32_matmul_precision("high")  # TF32 where there is any, as XLA multiplies
    training = Training(arrays, settings)
    with torch.no_grad():
        rows = torch.arange(len(training.y), device=settings["device"])
        print(json.dumps({"loss": float(training.loss(rows))}), flush=True)
    for line in sys.stdin:
        count, fresh = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        if fresh:
            training.begin()
        training.take(count)
        training.wait()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


if __name__ == "__main__":
    main()
