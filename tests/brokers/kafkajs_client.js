// KafkaJS, as another team's program would use it: `node kafkajs_client.js SERVER publish|read TOPIC [JSON]`.
const { Kafka, logLevel } = require('kafkajs')

const [server, command, topic, argument] = process.argv.slice(2)
const kafka = new Kafka({ clientId: 'shop', brokers: [server], logLevel: logLevel.NOTHING })

async function publish (messages) {
  const producer = kafka.producer()
  await producer.connect()
  await producer.send({ topic, messages })
  await producer.disconnect()
}

async function read (count) {
  const consumer = kafka.consumer({ groupId: `${topic}.kafkajs` })
  const seen = []
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await new Promise((resolve) => consumer.run({
    eachMessage: async ({ partition, message }) => {
      const headers = Object.fromEntries(Object.entries(message.headers).map(([name, value]) => [name, value.toString()]))
      seen.push({ partition, key: message.key && message.key.toString(), value: message.value.toString(), headers })
      if (seen.length === count) resolve()
    }
  }))
  await consumer.disconnect()
  console.log(JSON.stringify(seen))
}

const work = command === 'publish' ? publish(JSON.parse(argument)) : read(Number(argument))
work.catch((error) => { console.error(error); process.exit(1) })
