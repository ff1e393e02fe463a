// A small device of Outrider in Node.js, written from docs/asyncapi.json and docs/golden alone: topics and rules are those of the document.
// Takes questions as JSON lines on standard input and tells what happens as JSON lines on standard output. Knows no model: its "own
// answer" comes with the question. What it owes survives a kill: every question is a file until it is answered, refused or expired.

import { createHash, randomBytes } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { isDeepStrictEqual, parseArgs } from "node:util";
import { decode, encode } from "@msgpack/msgpack";
import mqtt from "mqtt";

const { values: args } = parseArgs({
  options: {
    document: { type: "string" }, // docs/asyncapi.json
    vectors: { type: "string" }, // docs/golden/wire-1.json: read them and end
    broker: { type: "string", default: "mqtt://127.0.0.1:1883" },
    device: { type: "string", default: "node-1" },
    coding: { type: "string", default: "application/json" },
    folder: { type: "string", default: "spool" },
    timer: { type: "string", default: "5" }, // seconds until an offer without a receipt is repeated
  },
});

const MSGPACK = "application/msgpack";
const JSON_TYPE = "application/json";
const INLINE_BYTES = 64 * 1024;
const MESSAGE_BYTES = 1024 * 1024;
const [FIRST_S, LONGEST_S, ASK_AGAIN_S] = [Number(args.timer), 30, 60];

const say = (event, facts = {}) => console.log(JSON.stringify({ event, ...facts }));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const now = () => performance.now() / 1000;

// --- the two codings: bytes are `bin` in MessagePack, base64 in JSON

function toJson(message) {
  return JSON.stringify(message, function (key, value) {
    return this[key] instanceof Uint8Array ? Buffer.from(this[key]).toString("base64") : value;
  });
}

function pack(message, coding) {
  return coding === JSON_TYPE ? Buffer.from(toJson(message)) : Buffer.from(encode(message));
}

function unpack(payload, coding) {
  return coding === JSON_TYPE ? JSON.parse(payload.toString()) : decode(payload);
}

if (args.vectors) {
  for (const { name, type, json, msgpack_hex } of JSON.parse(fs.readFileSync(args.vectors)).vectors) {
    const [mine, theirs] = [unpack(Buffer.from(msgpack_hex, "hex"), MSGPACK), JSON.parse(json)];
    const [again, typed] = [unpack(pack(mine, MSGPACK), MSGPACK), mine.type === type];
    say("vector", { name, same: typed && isDeepStrictEqual(JSON.parse(toJson(mine)), theirs), again: isDeepStrictEqual(again, mine) });
  }
  process.exit(0);
}

// --- where things are said: the document's addresses and subscriptions, with our name in them

const wire = JSON.parse(fs.readFileSync(args.document));
const version = Number(wire.info.version);
const named = (address, names) => address.replace(/{(\w+)}/g, (_, name) => names[name]);
const topic = (channel, names = {}) => named(wire.channels[channel].address, { device: args.device, ...names });
const subscriptions = Object.entries(wire.operations)
  .filter(([name]) => name.startsWith("device-receives-"))
  .flatMap(([, operation]) => operation["x-subscriptions"].map((filter) => named(filter, { device: args.device })));

// --- what is owed, on the disk: a file a question, a file a blob

fs.mkdirSync(args.folder, { recursive: true });
const open = new Map();
let room = MESSAGE_BYTES; // for the bytes of parts in one message

function keep(name, bytes) {
  const file = path.join(args.folder, name);
  const handle = fs.openSync(`${file}.part`, "w");
  fs.writeSync(handle, bytes);
  fs.fsyncSync(handle);
  fs.closeSync(handle);
  fs.renameSync(`${file}.part`, file);
  const folder = fs.openSync(args.folder, "r");
  fs.fsyncSync(folder);
  fs.closeSync(folder);
}

const held = (name) => (fs.existsSync(path.join(args.folder, name)) ? fs.readFileSync(path.join(args.folder, name)) : null);

function takeUp(question, offers = 0) {
  open.set(question.id, { question, since: now(), offers, received: false, timer: null });
}

function close(owed, event, facts) {
  clearTimeout(owed.timer);
  open.delete(owed.question.id);
  fs.rmSync(path.join(args.folder, `${owed.question.id}.json`), { force: true });
  letGo(owed);
  say(event, { id: owed.question.id, offers: owed.offers, ...facts });
}

function letGo(owed) {
  const needed = new Set([...open.values()].filter((o) => o !== owed && !o.received).flatMap((o) => o.question.parts.map((p) => p.sha256)));
  for (const { sha256: name } of owed.question.parts) if (!needed.has(name)) fs.rmSync(path.join(args.folder, name), { force: true });
}

// --- escalating

function uuid7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function ask({ task, parts, label, probabilities, why = "low_confidence", answer_within_ms = 10000, keep_for_s = 600 }) {
  const described = parts.map(({ name, modality, media_type, file, text }) => {
    const bytes = file ? fs.readFileSync(file) : Buffer.from(text);
    keep(sha256(bytes), bytes);
    return { name, modality, media_type, size: bytes.length, sha256: sha256(bytes) };
  });
  const model = sha256("a model of its own");
  const question = { id: uuid7(), task, parts: described, why, model, label, probabilities, answer_within_ms, keep_for_s };
  keep(`${question.id}.json`, JSON.stringify(question));
  takeUp(question);
  say("accepted", { id: question.id });
  offer(open.get(question.id));
}

function offer(owed) {
  const { question } = owed;
  const age = now() - owed.since;
  if (age >= question.keep_for_s) return close(owed, "expired");
  if (!client.connected) return; // offered at once when it is
  const left = Math.max(0, Math.floor(question.keep_for_s - age));
  const message = {
    type: "escalation",
    ...question,
    parts: owed.received ? question.parts : withInline(question.parts),
    answer_within_ms: Math.max(0, Math.floor(question.answer_within_ms - age * 1000)),
    keep_for_s: left,
    offer: ++owed.offers,
    v: version,
  };
  const properties = { correlationData: Buffer.from(question.id), messageExpiryInterval: Math.max(1, left) };
  publish(topic("escalate", { task: question.task }), message, { properties });
  say("offered", { id: question.id, offer: owed.offers });
  again(owed, owed.received ? ASK_AGAIN_S : Math.min(LONGEST_S, FIRST_S * 2 ** (owed.offers - 1)));
}

function withInline(parts) {
  let left = room;
  return parts.map((part) => {
    if (part.size > Math.min(INLINE_BYTES, left)) return part; // the worker pulls it
    left -= part.size;
    return { ...part, inline: held(part.sha256) };
  });
}

function again(owed, seconds) {
  clearTimeout(owed.timer);
  owed.timer = setTimeout(() => offer(owed), seconds * 1000);
}

// --- what comes down

const handlers = {
  receipt(message, owed) {
    if (!owed) return;
    owed.received = true;
    letGo(owed);
    again(owed, ASK_AGAIN_S);
    say("receipt", { id: message.id });
  },
  answer(message, owed, correlation) {
    if (owed) close(owed, "answer", { label: message.label, confidence: message.confidence, correlation });
  },
  refusal({ id, reason, retry_after_s, detail }, owed) {
    if (!owed) return;
    if (retry_after_s === undefined || retry_after_s === null) return close(owed, "refusal", { reason, detail });
    again(owed, retry_after_s * (1 + Math.random() / 4));
    say("busy", { id, reason, retry_after_s });
  },
  want(want, _owed, _correlation, coding) {
    const blob = /^[0-9a-f]{64}$/.test(want.sha256) ? held(want.sha256) : null;
    const back = topic("blob-up", { worker: want.worker, transfer: want.transfer });
    const { transfer, sha256 } = want;
    if (!blob) return publish(back, { type: "gone", transfer, sha256, reason: "gone", v: version }, { coding });
    const end = Math.min(blob.length, want.offset + want.count * want.block);
    for (let offset = want.offset; offset < end; offset += want.block) {
      const data = blob.subarray(offset, Math.min(offset + want.block, end));
      publish(back, { type: "block", transfer, offset, data, v: version }, { coding });
    }
    say("served", { sha256, from: want.offset, to: end, block: want.block });
  },
  desired() {}, // it has no models to update
};

function hear(at, payload, packet) {
  const properties = packet.properties ?? {};
  const coding = properties.contentType || MSGPACK;
  let message;
  try {
    message = unpack(payload, coding);
    if (message.type !== "refusal" && (message.v ?? version) !== version) throw new Error(`wire version ${message.v}`);
  } catch (error) {
    return say("bad", { topic: at, what: String(error) });
  }
  handlers[message.type]?.(message, open.get(message.id), properties.correlationData?.toString(), coding);
}

// --- the connection

function publish(at, message, { coding = args.coding, retain = false, properties = {} } = {}) {
  client.publish(at, pack(message, coding), { qos: 1, retain, properties: { contentType: coding, ...properties } });
}

const presence = (online) => ({ type: "presence", device: args.device, online, boot_id: boot, agent: "node", wire: [version], v: version });
const boot = randomBytes(8).toString("hex");
const client = mqtt.connect(args.broker, {
  protocolVersion: 5,
  clientId: args.device,
  clean: true,
  properties: { sessionExpiryInterval: 0 },
  keepalive: 20,
  reconnectPeriod: 300,
  resubscribe: false,
  will: { topic: topic("presence"), payload: pack(presence(false), args.coding), qos: 1, retain: true, properties: { contentType: args.coding } },
});

client.on("connect", async (connack) => {
  const packet = Math.min(MESSAGE_BYTES, connack.properties?.maximumPacketSize ?? MESSAGE_BYTES);
  room = Math.floor(((packet - 4096) * 3) / 4); // base64 makes four bytes of three
  const refused = (await client.subscribeAsync(subscriptions, { qos: 1 })).filter(({ qos }) => qos >= 128);
  if (refused.length) return say("subscription_refused", { topics: refused.map((each) => each.topic) });
  publish(topic("presence"), presence(true), { retain: true });
  say("connected");
  for (const owed of open.values()) offer(owed);
});
client.on("message", hear);
client.on("packetreceive", ({ cmd, reasonCode }) => cmd === "puback" && reasonCode === 0x10 && say("unheard"));
client.on("error", (error) => say("error", { what: error.message }));

for (const file of fs.readdirSync(args.folder).filter((name) => name.endsWith(".json"))) takeUp(JSON.parse(held(file)), 1);
createInterface({ input: process.stdin }).on("line", (line) => ask(JSON.parse(line)));
process.on("SIGTERM", async () => {
  await client.publishAsync(topic("presence"), pack(presence(false), args.coding), { qos: 1, retain: true, properties: { contentType: args.coding } });
  await client.endAsync();
  process.exit(0);
});
