"""Microphones and lines to hear a studio recording through: the device's poor one, and any. Files nothing."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Samples = NDArray[np.float64]
"""In −1..1, 8,000 a second."""


def device_microphone(samples: Samples, chance: Generator) -> Samples:
    """Dull, clipped, in a noisy room (3 to 15 dB)."""
    dull = np.convolve(samples, np.ones(3) / 3, "same")
    clipped = np.clip(dull / (np.abs(dull).max() + 1e-6) * chance.uniform(0.8, 2.0), -0.9, 0.9)
    return clipped + _noise(clipped, chance, hum=1.0, hiss=2.0, decibels=chance.uniform(3, 15))


def any_line(samples: Samples, chance: Generator) -> Samples:
    """Any speed, start, dullness, gain and noise (0 to 30 dB): what the cloud's owner expects of devices never met."""
    spoken = np.interp(np.arange(0, len(samples), chance.uniform(0.8, 1.25)), np.arange(len(samples)), samples)
    taps = int(chance.integers(1, 5))
    dull = np.convolve(np.pad(spoken, (int(chance.integers(0, 1500)), 0)), np.ones(taps) / taps, "same")
    clipped = np.clip(dull / (np.abs(dull).max() + 1e-6) * chance.uniform(0.6, 2.5), -0.95, 0.95)
    hum, hiss = chance.uniform(0, 1), chance.uniform(0.2, 1)
    return clipped + _noise(clipped, chance, hum=hum, hiss=hiss, decibels=chance.uniform(0, 30))


def _noise(heard: Samples, chance: Generator, *, hum: float, hiss: float, decibels: float) -> Samples:
    wandering = np.cumsum(chance.normal(size=len(heard)))
    wandering -= np.convolve(wandering, np.ones(201) / 201, "same")[: len(heard)]
    noise = hum * wandering / (wandering.std() + 1e-9) + hiss * chance.normal(size=len(heard))
    return noise / noise.std() * heard.std() * 10 ** (-decibels / 20)
