"""How Kubernetes decides on replicas: its HorizontalPodAutoscaler, on metrics of pods.

Written after the algorithm that Kubernetes documents: the ratio of the pods' mean to the target, a
tolerance, stabilization windows, and policies. Pods that have no metric, and those that are not ready, are
not simulated: Octet's answer scrapes while they load.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SYNC_SECONDS = 15.0
"""How often the controller looks, unless told otherwise."""

_TOLERANCE = 0.1


def quantity(text: str) -> float:
    """What Kubernetes' notation of a number means, in the forms that a target takes."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


@dataclass
class Autoscaler:
    """An autoscaler of the manifest's `spec`, with one metric of pods."""

    spec: dict[str, Any]
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def replicas(self, now: float, current: int, values: Sequence[float]) -> int:
        """How many there are to be.

        Args:
            now: seconds.
            current: how many there are.
            values: what the pods' metric says, a value for each of them.
        """
        stabilized = self._stabilize(now, current, self._desired(current, values))
        wanted = self._hold_to_policies(now, current, stabilized)
        wanted = min(max(wanted, self.spec["minReplicas"]), self.spec["maxReplicas"])
        if wanted != current:
            self._changes.append((now, wanted - current))
        return wanted

    def _desired(self, current: int, values: Sequence[float]) -> int:
        (metric,) = self.spec["metrics"]
        target = quantity(metric["pods"]["target"]["averageValue"])
        ratio = sum(values) / len(values) / target
        if abs(1 - ratio) <= _TOLERANCE:
            return current
        return math.ceil(ratio * len(values))

    def _stabilize(self, now: float, current: int, desired: int) -> int:
        """No more than the least of the one window, no fewer than the most of the other."""
        lower = upper = desired
        for when, recommended in self._recommended:
            if when > now - self._behavior("scaleUp")["stabilizationWindowSeconds"]:
                lower = min(lower, recommended)
            if when > now - self._behavior("scaleDown")["stabilizationWindowSeconds"]:
                upper = max(upper, recommended)
        self._recommended.append((now, desired))
        return min(max(current, lower), upper)

    def _hold_to_policies(self, now: float, current: int, wanted: int) -> int:
        if wanted > current:
            limits = [
                self._start(now, current, policy) + policy["value"]
                if policy["type"] == "Pods"
                else math.ceil(self._start(now, current, policy) * (1 + policy["value"] / 100))
                for policy in self._behavior("scaleUp")["policies"]
            ]
            return min(wanted, max(current, *limits))
        if wanted < current:
            limits = [
                self._start(now, current, policy) - policy["value"]
                if policy["type"] == "Pods"
                else int(self._start(now, current, policy) * (1 - policy["value"] / 100))
                for policy in self._behavior("scaleDown")["policies"]
            ]
            return max(wanted, min(current, *limits))
        return current

    def _start(self, now: float, current: int, policy: dict[str, Any]) -> int:
        """How many there were when the policy's period began."""
        since = now - policy["periodSeconds"]
        return current - sum(change for when, change in self._changes if when > since)

    def _behavior(self, direction: str) -> dict[str, Any]:
        behavior: dict[str, Any] = self.spec["behavior"][direction]
        return behavior
