"""An MQTT client that takes a PUBLISH which cannot be read for an empty message, instead of closing the connection. Knows paho.

A receiver may close the connection on a malformed packet (MQTT 5, §4.13), and paho does. But what is malformed was written by a
publisher and carried by a broker that does not look into it (rumqttd; EMQX outside its strict mode): one device could keep every
worker offline with a message a second, and under shared subscriptions each of them in turn with the same message. As an empty one it is
refused, counted and acknowledged like any other.
"""

import logging

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode

log = logging.getLogger(__name__)


class PatientClient(Client):
    """`paho.mqtt.client.Client` but for that."""

    _handed_on = False

    def _handle_publish(self) -> MQTTErrorCode:
        self._handed_on = False
        try:
            return super()._handle_publish()
        except (
            Exception
        ) as error:  # properties raise whatever they meet: MalformedPacket, UnicodeDecodeError, KeyError …
            if self._handed_on or (message := self._empty_message()) is None:
                raise
            log.warning("message.malformed", extra={"what": f"{type(error).__name__}: {error}"[:200]})
            self._handle_on_message(message)
            return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_on_message(self, message: MQTTMessage) -> None:
        self._handed_on = True
        super()._handle_on_message(message)

    def _empty_message(self) -> MQTTMessage | None:
        """What of the packet at hand stands before its properties, without a payload; None where not even that can be read."""
        packet, qos = bytes(self._in_packet["packet"]), self._in_packet["command"] >> 1 & 3
        end = 2 + int.from_bytes(packet[:2], "big")
        if qos != 1 or len(packet) < end + 2:  # what is subscribed to is subscribed to at QoS 1
            return None
        message = MQTTMessage(
            mid=int.from_bytes(packet[end : end + 2], "big"), topic=packet[2:end].decode("utf-8", "replace").encode()
        )
        message.qos = qos
        return message
