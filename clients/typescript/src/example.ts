// Asks an Octet server a question and prints the answer as it streams; makes the tool calls that the
// model asks for, and gives it the results.
//
//   node dist/example.js [--image FILE] [--ca FILE] [--timeout SECONDS] HOST:PORT TEXT
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

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

// google.rpc.Status and BadRequest, as far as they are read here: what comes with a failed call.
const { root: details } = protobuf.parse(`
  syntax = "proto3";
  message Status { repeated Detail details = 3; }
  message Detail { string type_url = 1; bytes value = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
  message FieldViolation { string field = 1; string description = 2; }
`);
interface Status {
  details: { typeUrl: string; value: Uint8Array }[];
}
interface BadRequest {
  fieldViolations: { field: string; description: string }[];
}

// A refusal for want of room says when to come again, and a call of which nothing has arrived may be repeated.
const serviceConfig = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: "octet.v1.ChatService" }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "5s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
      },
    },
  ],
};

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

// Prints the answer's text as it comes; returns the answer as a turn to go on from, and whether it asks for calls.
async function ask(
  client: ChatServiceClient,
  request: ChatRequest,
  seconds: number,
): Promise<{ answer: Message; asksForCalls: boolean }> {
  const metadata = new grpc.Metadata();
  const key = process.env.OCTET_API_KEY;
  if (key) metadata.set("authorization", `Bearer ${key}`);
  // Every call has a deadline; it reaches the engine. `stream.cancel()` stops the model's work, too.
  const stream = client.StreamChat(request, metadata, { deadline: Date.now() + seconds * 1000 });

  let text = "";
  let asksForCalls = false;
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
      // The last call of an answer that ended otherwise may be cut off.
      asksForCalls ||= delta.finish_reason === "FINISH_REASON_TOOL_CALLS";
    }
  }
  const parts: Part[] = calls.map((call) => ({ tool_call: call }));
  const answer: Message = { role: "ROLE_ASSISTANT", parts: text ? [{ text }, ...parts] : parts };
  return { answer, asksForCalls };
}

// Says what went wrong: a failed call carries a code, a sentence and details, such as the wrong fields.
function report(error: unknown): void {
  console.error(error instanceof Error ? error.message : error);
  const [packed] = (error as Partial<grpc.ServiceError>).metadata?.get("grpc-status-details-bin") ?? [];
  if (!(packed instanceof Buffer)) return;
  const status = details.lookupType("Status").decode(packed) as unknown as Status;
  for (const { typeUrl, value } of status.details) {
    if (!typeUrl.endsWith("/google.rpc.BadRequest")) continue;
    const bad = details.lookupType("BadRequest").decode(value) as unknown as BadRequest;
    for (const { field, description } of bad.fieldViolations) console.error(`  ${field}: ${description}`);
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: {
      image: { type: "string" },
      ca: { type: "string" },
      timeout: { type: "string", default: "60" },
    },
    allowPositionals: true,
  });
  const [target, text] = positionals;
  if (!target || !text) {
    throw new Error("usage: node dist/example.js [--image FILE] [--ca FILE] [--timeout SECONDS] HOST:PORT TEXT");
  }

  const credentials = values.ca
    ? grpc.credentials.createSsl(readFileSync(values.ca))
    : grpc.credentials.createInsecure();
  const client = new octet.v1.ChatService(target, credentials, {
    "grpc.max_receive_message_length": 64 * 1024 * 1024,
    "grpc.keepalive_time_ms": 30_000,
    "grpc.service_config": JSON.stringify(serviceConfig),
  });
  const question: Part[] = [{ text }];
  if (values.image) question.unshift({ image: { data: readFileSync(values.image) } });
  const messages: Message[] = [{ role: "ROLE_USER", parts: question }];
  for (;;) {
    const { answer, asksForCalls } = await ask(client, { messages, tools: [weather] }, Number(values.timeout));
    messages.push(answer);
    if (!asksForCalls) break;
    const calls = (answer.parts ?? []).flatMap((part) => (part.tool_call ? [part.tool_call] : []));
    for (const { id, name, arguments_json } of calls) {
      const result = { call_id: id, text: runTool(name ?? "", arguments_json ?? "") };
      messages.push({ role: "ROLE_TOOL", parts: [{ tool_result: result }] });
    }
  }
  process.stdout.write("\n");
  client.close();
}

main().catch((error: unknown) => {
  report(error);
  process.exit(1);
});
