"""``outrider bench gate``: every way of deciding what the large model is asked, on the same rows and seeds."""
