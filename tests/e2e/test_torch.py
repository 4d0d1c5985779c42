"""The same small network in PyTorch, from the same weights, in double: the losses of 20 steps agree."""

import sys
import unittest

import h5py
import numpy as np

from program import ProgramTest

try:
    import torch
except ImportError:
    print("PyTorch is missing (Debian: apt-get install python3-torch): this test did not run")
    sys.exit(77)

STEPS = 20
WIDTHS = [7, 9, 5, 3]


def network(file):
    """The chain of a network file, with its weights."""
    layers = []
    for name in ["hidden1", "hidden2", "output"]:
        weight = torch.tensor(file[f"layers/{name}/weight"][:])
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(torch.tensor(file[f"layers/{name}/bias"][:]))
        layers += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


class TorchTest(ProgramTest):
    def setUp(self):
        super().setUp()
        generator = np.random.default_rng(3)
        self.x = generator.uniform(-1.0, 1.0, (40, WIDTHS[0]))
        self.y = generator.integers(0, WIDTHS[-1], 40)
        with h5py.File(self.folder / "rows.h5", "w") as file:
            file.attrs["encoding-type"] = "anndata"
            file.attrs["encoding-version"] = "0.1.0"
            matrix = file.create_dataset("X", data=self.x)
            matrix.attrs["encoding-type"] = "array"
            matrix.attrs["encoding-version"] = "0.2.0"
            obs = file.create_group("obs")
            obs.attrs["encoding-type"] = "dataframe"
            obs.attrs["encoding-version"] = "0.2.0"
            obs.attrs["_index"] = "_index"
            obs.attrs["column-order"] = ["label"]
            obs.create_dataset("_index", data=[str(i) for i in range(40)],
                               dtype=h5py.string_dtype())
            obs.create_dataset("label", data=self.y)
        # a step of no length leaves the starting weights in a file
        self.common = ["mlp", "rows.h5", "--precision", "double", "--hidden", "9,5",
                       "--activation", "tanh", "--dropout", "0", "--schedule", "constant",
                       "--batch", "40"]
        self.run_program(*self.common, "--epochs", 1, "--learning-rate", "1e-300",
                         "--out", "start.h5")

    def losses_of(self, *options, ranks):
        out = f"end{ranks}.h5"
        self.run_program(*self.common, "--epochs", STEPS, "--init", "start.h5", "--out", out,
                         "--force", *options, ranks=ranks)
        with h5py.File(self.folder / out) as file:
            return file["history"][:, 1]

    def check(self, make, *options):
        with h5py.File(self.folder / "start.h5") as file:
            model = network(file)
            scale = file.attrs["scale"]
        optimizer = make(model)
        x = torch.tensor(self.x * scale)
        y = torch.tensor(self.y)
        expected = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
        for ranks in (1, 2):
            found = self.losses_of(*options, ranks=ranks)
            self.assertEqual(len(found), STEPS)
            np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-8)

    def test_sgd_with_momentum(self):
        self.check(lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
                   "--optimizer", "sgd", "--learning-rate", 0.1, "--momentum", 0.9)

    def test_adam(self):
        self.check(lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
                   "--optimizer", "adam", "--learning-rate", 0.01)

    def test_adamw_which_decays_weights_only(self):
        def make(model):
            weights = [p for p in model.parameters() if p.dim() == 2]
            biases = [p for p in model.parameters() if p.dim() == 1]
            return torch.optim.AdamW([{"params": weights, "weight_decay": 0.1},
                                      {"params": biases, "weight_decay": 0.0}], lr=0.01)
        self.check(make, "--optimizer", "adamw", "--learning-rate", 0.01, "--weight-decay", 0.1)


if __name__ == "__main__":
    unittest.main()
