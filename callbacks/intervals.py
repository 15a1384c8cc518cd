"""When something is due, in samples seen: the same points whatever the batch size or the number of devices."""


class Interval:
    """True once each time `samples_seen` passes a multiple of `kimg` thousand samples."""

    def __init__(self, kimg: float) -> None:
        if kimg <= 0:
            raise ValueError(f"every_kimg must be positive, not {kimg}")
        self.samples = kimg * 1000
        self._before = 0

    def start(self, samples_seen: int) -> None:
        """Where training starts or resumes."""
        self._before = samples_seen

    def passed(self, samples_seen: int) -> bool:
        """Whether a multiple lies between the last call's count (exclusive) and this one's (inclusive)."""
        before, self._before = self._before, samples_seen
        return int(samples_seen // self.samples) > int(before // self.samples)
