"""The perceptual distance between pictures that a verb uses."""

import argparse

from features.efficientnet import EfficientNetFeatures
from features.lpips import LPIPSDistance, weights_place
from metrics.path_length import EfficientNetDistance, PathDistance


def distance_of(options: argparse.Namespace) -> PathDistance:
    """The distance that --distance names. By default LPIPS if its weights are in torch's cache, else EfficientNet's."""
    if options.distance == "lpips" or (options.distance is None and weights_place("vgg").is_file()):
        return LPIPSDistance()
    return EfficientNetDistance(EfficientNetFeatures(options.resolution))
