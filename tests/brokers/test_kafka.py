"""Kafka keeps what every broker has to keep, on a real server."""

from tests.brokers.kafka_server import kafka_url, restart_kafka

from millstream.brokers.kafka import KafkaBroker
from millstream.core.broker import Broker
from millstream.testing import BrokerSuite


class TestKafkaBroker(BrokerSuite):
    """Everything but the marks of relays."""

    features = KafkaBroker.features
    patience = 20.0

    def connect(self) -> Broker:
        return KafkaBroker(kafka_url())

    async def restart(self) -> None:
        await restart_kafka()
        await self.reconnect()
