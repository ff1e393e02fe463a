"""What device and cloud share beyond the pure wire: a lasting MQTT session, blob transfer, durable files, a broker in a box."""

from outrider_link.session import Incoming, MqttSession, Outgoing, Tls

__all__ = ["Incoming", "MqttSession", "Outgoing", "Tls"]
