// Streams an answer over gRPC-Web, without a library and without a build step: what of protobuf it takes is written
// out below. An application with more than this generates its code out of protos/octet/v1, with protobuf-es and
// connect-web for example.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** What ended a call that did not end well; `code` is gRPC's, 0 where the answer was cut off without one. */
export class CallError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * The pieces of the answer to one question, as they arrive. Leaving the loop over them ends the call.
 *
 * @param {string} url Envoy's, such as "http://localhost:8080".
 * @param {string} question
 * @param {{key?: string, signal?: AbortSignal, seconds?: number}} options An API key; what cancels the call, and
 *   with it the model's work; a deadline.
 * @throws {CallError} when the call has failed, or the answer was cut off.
 */
export async function* ask(url, question, { key, signal, seconds = 120 } = {}) {
  const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1", "grpc-timeout": `${seconds}S` };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(`${url}/octet.v1.ChatService/StreamChat`, {
    method: "POST",
    headers,
    body: frame(chatRequest(question)),
    signal,
  });
  if (!response.ok) throw new CallError(0, `HTTP status ${response.status}`);
  // A call that is refused at once has its status among the headers, and no body.
  if (response.headers.has("grpc-status")) check(response.headers);
  let ended = false;
  for await (const { isTrailers, content } of frames(response.body)) {
    if (isTrailers) {
      check(trailersOf(content));
      ended = true;
    } else {
      for (const text of textsOf(content)) yield text;
    }
  }
  if (!ended) throw new CallError(0, "the answer was cut off");
}

function check(trailers) {
  const code = Number(trailers.get("grpc-status"));
  if (code !== 0) throw new CallError(code, decodeURIComponent(trailers.get("grpc-message") ?? ""));
}

function trailersOf(content) {
  const lines = decoder.decode(content).split("\r\n").filter(Boolean);
  return new Map(lines.map((line) => [line.split(":")[0].toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]));
}

// gRPC-Web: a byte of flags (0x80: trailers), the length in four bytes, the content.

function frame(message) {
  const framed = new Uint8Array(5 + message.length);
  new DataView(framed.buffer).setUint32(1, message.length);
  framed.set(message, 5);
  return framed;
}

async function* frames(body) {
  const reader = body.getReader();
  let waiting = new Uint8Array(0);
  try {
    for (;;) {
      while (waiting.length >= 5) {
        const end = 5 + new DataView(waiting.buffer, waiting.byteOffset).getUint32(1);
        if (waiting.length < end) break;
        yield { isTrailers: (waiting[0] & 0x80) !== 0, content: waiting.subarray(5, end) };
        waiting = waiting.slice(end);
      }
      const { done, value } = await reader.read();
      if (done) return;
      const joined = new Uint8Array(waiting.length + value.length);
      joined.set(waiting);
      joined.set(value, waiting.length);
      waiting = joined;
    }
  } finally {
    // Who reads no further wants no more of it: that ends the call, and the model's work. What failed has ended.
    await reader.cancel().catch(() => {});
  }
}

// Protobuf: fields are a number and a type (0: a varint, 2: bytes behind their length), and the value.

function varint(value) {
  const bytes = [];
  for (; value > 127; value >>>= 7) bytes.push((value & 127) | 128);
  return [...bytes, value];
}

function bytesField(number, content) {
  return [...varint((number << 3) | 2), ...varint(content.length), ...content];
}

function chatRequest(question) {
  const part = bytesField(1, encoder.encode(question)); // Part.text
  const message = [...varint(1 << 3), 2, ...bytesField(2, part)]; // Message.role = ROLE_USER, Message.parts
  return Uint8Array.from(bytesField(2, message)); // ChatRequest.messages
}

/** The texts that a ChatChunk adds. */
function textsOf(chunk) {
  return bytesFields(chunk, 4) // ChatChunk.deltas
    .flatMap((delta) => bytesFields(delta, 2)) // CandidateDelta.text
    .map((text) => decoder.decode(text));
}

/** The contents of a message's fields of this number, which are texts, bytes or messages. */
function bytesFields(message, wanted) {
  const found = [];
  let at = 0;
  const next = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = message[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = next();
    const type = tag % 8;
    if (type === 0) next();
    else if (type === 1) at += 8;
    else if (type === 5) at += 4;
    else {
      const length = next();
      if (Math.floor(tag / 8) === wanted) found.push(message.subarray(at, at + length));
      at += length;
    }
  }
  return found;
}
