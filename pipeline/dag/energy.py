"""Energy of the machine's processors, from the RAPL counters of Linux where this process may read them."""

from contextlib import suppress
from pathlib import Path

COUNTERS = Path("/sys/class/powercap")
MICRO = 1e-6


class EnergyMeter:
    """Energy from the construction of the meter on, of all packages and whatever they computed."""

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._counters, self._joules = counters, 0.0
        self._last = self._read()

    def joules(self) -> float | None:
        """None where the counters cannot be read. They begin again at zero after some minutes: read them more often."""
        now = self._read()
        if now.keys() != self._last.keys() or not now:
            return None
        self._joules += sum((now[zone][0] - self._last[zone][0]) % span for zone, (_, span) in now.items()) * MICRO
        self._last = now
        return round(self._joules, 1)

    def _read(self) -> dict[str, tuple[int, int]]:
        """Microjoules and where they begin again, by package; parts of packages have two colons in their names."""
        found: dict[str, tuple[int, int]] = {}
        with suppress(OSError, ValueError):
            for zone in self._counters.glob("intel-rapl:*"):
                if zone.name.count(":") == 1:
                    value, last = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
                    found[zone.name] = value, last + 1
        return found
