"""Networks that several experiments share: small, and written to be read."""

from experiments.networks.resnet import CONVOLUTIONS, ResNet
from experiments.networks.transformer import Transformer, generate
