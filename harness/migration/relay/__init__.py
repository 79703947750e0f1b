"""The relay between two QEMUs: forwards, records, counts pages, and applies wire faults.

``Relay`` and ``Endpoint`` are what others use; ``faults.CATALOGUE`` is what ``cvmig list faults`` shows.
"""

from harness.migration.relay.endpoint import Endpoint
from harness.migration.relay.relay import Relay

__all__ = ["Endpoint", "Relay"]
