"""The tasks of ``outrider bench gate``: data, the device's shift, both models. One table names them, one module holds each."""
