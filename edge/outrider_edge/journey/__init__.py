"""An input's journey on the device: prepared, answered, judged, decided on, reported."""
