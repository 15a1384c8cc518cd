"""The perceptual distance that a verb compares pictures by."""

import argparse

from features.efficientnet import EfficientNetFeatures
from features.lpips import LPIPSDistance, weights_place
from metrics.path_length import EfficientNetDistance, PathDistance


def distance_of(options: argparse.Namespace) -> PathDistance:
    """What --distance names; where it is left out, LPIPS if its weights are at hand, and else EfficientNet's."""
    if options.distance == "lpips" or (options.distance is None and weights_place("vgg").is_file()):
        return LPIPSDistance()
    return EfficientNetDistance(EfficientNetFeatures(options.resolution))
