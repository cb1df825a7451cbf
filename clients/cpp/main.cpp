// Asks an Octet server a question and prints the answer as it streams; makes the tool calls that
// the model asks for, and gives it the results.
//
//   octet-example [--image FILE] [--ca FILE] [--timeout SECONDS] HOST:PORT TEXT
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "octet/v1/chat_service.grpc.pb.h"

namespace {

using octet::v1::ChatChunk;
using octet::v1::ChatRequest;
using octet::v1::ChatService;
using octet::v1::Message;
using octet::v1::ToolCall;

// A refusal for want of room says when to come again, and a call of which nothing has arrived may
// be repeated.
constexpr char kServiceConfig[] = R"({
  "methodConfig": [{
    "name": [{"service": "octet.v1.ChatService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.2s",
      "maxBackoff": "5s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
})";

// Many log probabilities do not fit into the usual 4 MiB.
constexpr int kMaxMessageBytes = 64 << 20;

constexpr char kWeather[] = "get_weather";
constexpr char kWeatherParameters[] =
    R"({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})";

struct Options {
  std::string image;
  std::string ca;
  double seconds = 60;
  std::string target;
  std::string text;
};

// A call that failed, with what the server said about it.
struct CallError : std::runtime_error {
  explicit CallError(const grpc::Status& failed)
      : std::runtime_error(failed.error_message()), status(failed) {}
  grpc::Status status;
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<grpc::Channel> Connect(const Options& options) {
  auto encryption = grpc::InsecureChannelCredentials();
  if (!options.ca.empty()) {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = ReadFile(options.ca);
    encryption = grpc::SslCredentials(tls);
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetServiceConfigJSON(kServiceConfig);
  // A server that vanished in the middle of a long answer is noticed.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(options.target, encryption, arguments);
}

std::string RunTool(const ToolCall& call) {
  if (call.name() != kWeather)
    throw std::runtime_error("the model asked for " + call.name() + ", which was not offered");
  google::protobuf::Struct arguments;
  if (!google::protobuf::util::JsonStringToMessage(call.arguments_json(), &arguments).ok()) {
    throw std::runtime_error("the model's arguments are no JSON object");
  }
  return "It is sunny in " + arguments.fields().at("city").string_value() + ".";
}

void Add(const octet::v1::ToolCallDelta& piece, std::vector<ToolCall>& calls) {
  if (calls.size() <= static_cast<size_t>(piece.index())) calls.resize(piece.index() + 1);
  ToolCall& call = calls[piece.index()];
  call.mutable_id()->append(piece.id());
  call.mutable_name()->append(piece.name());
  call.mutable_arguments_json()->append(piece.arguments_json());
}

// Prints the answer's text as it comes, adds the answer to the request's turns, and returns the
// calls to make.
std::vector<ToolCall> Ask(ChatService::Stub& chat, ChatRequest& request, double seconds) {
  grpc::ClientContext context;  // `TryCancel` stops the model's work, too
  // The deadline reaches the engine: the model stops.
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<long>(seconds * 1000)));
  if (const char* key = std::getenv("OCTET_API_KEY"); key != nullptr && *key != '\0') {
    context.AddMetadata("authorization", std::string("Bearer ") + key);
  }
  std::string text;
  std::vector<ToolCall> calls;
  auto reason = octet::v1::FINISH_REASON_UNSPECIFIED;
  auto stream = chat.StreamChat(&context, request);
  for (ChatChunk chunk; stream->Read(&chunk);) {
    for (const auto& delta : chunk.deltas()) {
      std::cout << delta.text() << std::flush;
      text += delta.text();
      for (const auto& piece : delta.tool_calls()) Add(piece, calls);
      if (delta.finish_reason() != octet::v1::FINISH_REASON_UNSPECIFIED)
        reason = delta.finish_reason();
    }
  }
  if (grpc::Status status = stream->Finish(); !status.ok()) throw CallError(status);

  Message& answer = *request.add_messages();
  answer.set_role(octet::v1::ROLE_ASSISTANT);
  if (!text.empty()) answer.add_parts()->set_text(text);
  for (const ToolCall& call : calls) *answer.add_parts()->mutable_tool_call() = call;
  // The last call of an answer that ended otherwise may be cut off.
  if (reason != octet::v1::FINISH_REASON_TOOL_CALLS) calls.clear();
  return calls;
}

void Talk(const Options& options) {
  ChatRequest request;
  auto& tool = *request.add_tools();
  tool.set_name(kWeather);
  tool.set_description("Get the weather in a city.");
  tool.set_parameters_json(kWeatherParameters);
  Message& question = *request.add_messages();
  question.set_role(octet::v1::ROLE_USER);
  if (!options.image.empty())
    question.add_parts()->mutable_image()->set_data(ReadFile(options.image));
  question.add_parts()->set_text(options.text);

  auto chat = ChatService::NewStub(Connect(options));
  for (auto calls = Ask(*chat, request, options.seconds); !calls.empty();
       calls = Ask(*chat, request, options.seconds)) {
    for (const ToolCall& call : calls) {
      Message& turn = *request.add_messages();
      turn.set_role(octet::v1::ROLE_TOOL);
      auto& result = *turn.add_parts()->mutable_tool_result();
      result.set_call_id(call.id());
      result.set_text(RunTool(call));
    }
  }
  std::cout << std::endl;
}

// Says what went wrong: a failed call carries a code, a sentence and details, such as the wrong
// fields.
void Report(const grpc::Status& failed) {
  std::cerr << "status " << failed.error_code() << ": " << failed.error_message() << '\n';
  google::rpc::Status details;
  details.ParseFromString(failed.error_details());
  for (const auto& detail : details.details()) {
    if (google::rpc::BadRequest bad; detail.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        std::cerr << "  " << violation.field() << ": " << violation.description() << '\n';
      }
    }
  }
}

bool Parse(int count, char** words, Options& options) {
  int next = 1;
  for (; next + 1 < count && std::string(words[next]).rfind("--", 0) == 0; next += 2) {
    const std::string name = words[next];
    if (name == "--image") {
      options.image = words[next + 1];
    } else if (name == "--ca") {
      options.ca = words[next + 1];
    } else if (name == "--timeout") {
      options.seconds = std::atof(words[next + 1]);
    } else {
      return false;
    }
  }
  if (count - next != 2) return false;
  options.target = words[next];
  options.text = words[next + 1];
  return true;
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!Parse(count, words, options)) {
    std::cerr
        << "usage: octet-example [--image FILE] [--ca FILE] [--timeout SECONDS] HOST:PORT TEXT\n";
    return 2;
  }
  try {
    Talk(options);
  } catch (const CallError& error) {
    Report(error.status);
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
