// Asks an Octet server a question and prints the answer as it streams; makes the tool calls that the
// model asks for, and gives it the results.
//
//   node dist/example.js [--image FILE] HOST:PORT TEXT
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/chat_service.js";
import type { ChatRequest } from "./generated/octet/v1/ChatRequest.js";
import type { ChatServiceClient } from "./generated/octet/v1/ChatService.js";
import type { Message } from "./generated/octet/v1/Message.js";
import type { Part } from "./generated/octet/v1/Part.js";
import type { Tool } from "./generated/octet/v1/Tool.js";

const root = fileURLToPath(new URL("..", import.meta.url));

// The options are those that the types in src/generated were made with (package.json, "types").
const definition = protoLoader.loadSync("octet/v1/chat_service.proto", {
  includeDirs: [`${root}/../../protos`, `${root}/node_modules/protobufjs`],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { octet } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;

const weather: Tool = {
  name: "get_weather",
  description: "Get the weather in a city.",
  parameters: {
    fields: {
      type: { stringValue: "object" },
      properties: {
        structValue: {
          fields: { city: { structValue: { fields: { type: { stringValue: "string" } } } } },
        },
      },
      required: { listValue: { values: [{ stringValue: "city" }] } },
    },
  },
};

function runTool(name: string, argumentsJson: string): string {
  if (name !== "get_weather") throw new Error(`the model asked for ${name}, which was not offered`);
  const { city } = JSON.parse(argumentsJson) as { city: string };
  return `It is sunny in ${city}.`;
}

// Prints the answer's text as it comes; returns the answer as a turn, to go on from.
async function ask(client: ChatServiceClient, request: ChatRequest): Promise<Message> {
  const metadata = new grpc.Metadata();
  const key = process.env.OCTET_API_KEY;
  if (key) metadata.set("authorization", `Bearer ${key}`);
  // Every call has a deadline; it reaches the engine. `stream.cancel()` stops the model's work, too.
  const stream = client.StreamChat(request, metadata, { deadline: Date.now() + 60_000 });

  let text = "";
  const calls: { id: string; name: string; arguments_json: string }[] = [];
  for await (const chunk of stream) {
    for (const delta of chunk.deltas ?? []) {
      text += delta.text;
      process.stdout.write(delta.text ?? "");
      for (const { index, id, name, arguments_json } of delta.tool_calls ?? []) {
        const call = (calls[index ?? 0] ??= { id: "", name: "", arguments_json: "" });
        call.id += id;
        call.name += name;
        call.arguments_json += arguments_json;
      }
    }
  }
  const parts: Part[] = calls.map((call) => ({ tool_call: call }));
  return { role: "ROLE_ASSISTANT", parts: text ? [{ text }, ...parts] : parts };
}

async function main(): Promise<void> {
  const words = process.argv.slice(2);
  const image = words[0] === "--image" ? words.splice(0, 2)[1] : undefined;
  const [target, text] = words;
  if (!target || !text) throw new Error("usage: node dist/example.js [--image FILE] HOST:PORT TEXT");

  const client = new octet.v1.ChatService(target, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": 64 * 1024 * 1024,
    "grpc.keepalive_time_ms": 30_000,
  });
  const parts: Part[] = image ? [{ image: { data: readFileSync(image) } }, { text }] : [{ text }];
  const messages: Message[] = [{ role: "ROLE_USER", parts }];
  for (;;) {
    const answer = await ask(client, { messages, tools: [weather] });
    messages.push(answer);
    const calls = (answer.parts ?? []).flatMap((part) => (part.tool_call ? [part.tool_call] : []));
    if (calls.length === 0) break;
    for (const { id, name, arguments_json } of calls) {
      const result = { call_id: id, text: runTool(name ?? "", arguments_json ?? "") };
      messages.push({ role: "ROLE_TOOL", parts: [{ tool_result: result }] });
    }
  }
  process.stdout.write("\n");
  client.close();
}

main().catch((error: unknown) => {
  // A failed call carries a code, a sentence, and google.rpc.Status in its trailers.
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
