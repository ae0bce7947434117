"""Confluent's own client and serializers, as another team's program would use them: SERVER REGISTRY publish|read TOPIC ARGUMENT.

It runs in an environment of its own, where nothing of Millstream is.
"""

import json
import sys
import uuid

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.common.serde import SchemaId
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, StringSerializer

SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object", "required": ["orderId"],
    "properties": {"orderId": {"type": "integer"}, "status": {"type": "string"}},
}  # fmt: skip
AVRO = {"name": "Order", "type": "record", "fields": [{"name": "orderId", "type": "long"}, {"name": "status", "type": "string"}]}
KEY = {"$schema": SCHEMA["$schema"], "title": "Key", "type": "string"}


def in_a_header(payload, context, schema):
    """What the newer form writes; the GUID is made here, since this registry gives schemas none."""
    guid = uuid.uuid5(uuid.NAMESPACE_OID, str(schema.id))
    return header_schema_id_serializer(payload, context, SchemaId("JSON", schema.id, str(guid)))


def publish(server, registry, topic, messages):
    plain = JSONSerializer(json.dumps(SCHEMA), registry)
    serializers = {
        "json": plain,
        "header": JSONSerializer(json.dumps(SCHEMA), registry, conf={"schema.id.serializer": in_a_header}),
        "avro": AvroSerializer(registry, json.dumps(AVRO), conf={"subject.name.strategy": lambda context, name: f"{topic}-avro"}),
    }
    keys = {"text": StringSerializer(), "json": JSONSerializer(json.dumps(KEY), registry)}
    producer = Producer({"bootstrap.servers": server})
    for message in messages:
        headers = []
        value = serializers[message["as"]](message["value"], SerializationContext(topic, MessageField.VALUE, headers))
        key = keys[message["keyAs"]](message["key"], SerializationContext(topic, MessageField.KEY, headers))
        producer.produce(topic, value, key, headers=headers)
    assert producer.flush(30) == 0


def read(server, registry, topic, count):
    deserializer = JSONDeserializer(None, schema_registry_client=registry)
    consumer = Consumer({"bootstrap.servers": server, "group.id": f"{topic}.confluent", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    seen = []
    while len(seen) < count:
        message = consumer.poll(1)
        if message is None:
            continue
        assert message.error() is None, message.error()
        # It finds the schema by the id before the body, and checks the body by that.
        value = deserializer(message.value(), SerializationContext(topic, MessageField.VALUE, message.headers()))
        schema = json.loads(registry.get_schema(int.from_bytes(message.value()[1:5], "big")).schema_str)
        seen.append({"key": message.key().decode(), "value": value, "fields": sorted(schema["properties"]), "headers": dict(
            (name, text.decode()) for name, text in message.headers()
        )})  # fmt: skip
    consumer.close()
    print(json.dumps(seen))


def main(server, registry, command, topic, argument):
    work = {"publish": publish, "read": read}[command]
    work(server, SchemaRegistryClient({"url": registry}), topic, json.loads(argument))


if __name__ == "__main__":
    main(*sys.argv[1:])
