package octet.example;

import com.google.gson.JsonParser;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import octet.v1.CandidateDelta;
import octet.v1.ChatChunk;
import octet.v1.ChatRequest;
import octet.v1.ChatServiceGrpc;
import octet.v1.FinishReason;
import octet.v1.Image;
import octet.v1.Message;
import octet.v1.Part;
import octet.v1.Role;
import octet.v1.Tool;
import octet.v1.ToolCall;
import octet.v1.ToolCallDelta;
import octet.v1.ToolResult;

/**
 * Asks an Octet server a question and prints the answer as it streams; makes the tool calls that the model asks for,
 * and gives it the results.
 *
 * <p>Usage: [--image FILE] [--ca FILE] [--timeout SECONDS] HOST:PORT TEXT
 */
public final class Example {
  /** Many log probabilities do not fit into the usual 4 MiB. */
  private static final int MAX_MESSAGE_BYTES = 64 << 20;

  /** A refusal for want of room says when to come again; a call of which nothing has arrived may be repeated. */
  private static final Map<String, ?> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name", List.of(Map.of("service", "octet.v1.ChatService")),
                  "retryPolicy",
                      Map.of(
                          "maxAttempts", 4.0,
                          "initialBackoff", "0.2s",
                          "maxBackoff", "5s",
                          "backoffMultiplier", 2.0,
                          "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED")))));

  private static final Tool WEATHER =
      Tool.newBuilder()
          .setName("get_weather")
          .setDescription("Get the weather in a city.")
          .setParametersJson(
              "{\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}, \"required\": [\"city\"]}")
          .build();

  private final ChatServiceGrpc.ChatServiceBlockingStub chat;
  private final long timeoutMillis;

  private Example(ManagedChannel channel, long timeoutMillis) {
    Metadata headers = new Metadata();
    String key = System.getenv("OCTET_API_KEY");
    if (key != null && !key.isEmpty()) {
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + key);
    }
    this.chat =
        ChatServiceGrpc.newBlockingStub(channel)
            .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers))
            .withMaxOutboundMessageSize(MAX_MESSAGE_BYTES);
    this.timeoutMillis = timeoutMillis;
  }

  private static String runTool(ToolCall call) {
    if (!call.getName().equals(WEATHER.getName())) {
      throw new IllegalArgumentException("the model asked for " + call.getName() + ", which was not offered");
    }
    String city = JsonParser.parseString(call.getArgumentsJson()).getAsJsonObject().get("city").getAsString();
    return "It is sunny in " + city + ".";
  }

  /** Prints the answer's text as it comes, makes its calls, and returns both as turns to go on from. */
  private List<Message> ask(List<Message> turns) {
    ChatRequest request = ChatRequest.newBuilder().addAllMessages(turns).addTools(WEATHER).build();
    // The deadline reaches the engine: the model stops.
    Iterator<ChatChunk> chunks =
        chat.withDeadlineAfter(timeoutMillis, TimeUnit.MILLISECONDS).streamChat(request);
    StringBuilder text = new StringBuilder();
    List<ToolCall.Builder> calls = new ArrayList<>();
    FinishReason reason = FinishReason.FINISH_REASON_UNSPECIFIED;
    while (chunks.hasNext()) {
      for (CandidateDelta delta : chunks.next().getDeltasList()) {
        System.out.print(delta.getText());
        System.out.flush();
        text.append(delta.getText());
        delta.getToolCallsList().forEach(piece -> add(piece, calls));
        if (delta.getFinishReason() != FinishReason.FINISH_REASON_UNSPECIFIED) {
          reason = delta.getFinishReason();
        }
      }
    }
    Message.Builder answer = Message.newBuilder().setRole(Role.ROLE_ASSISTANT);
    if (text.length() > 0) {
      answer.addParts(Part.newBuilder().setText(text.toString()));
    }
    calls.forEach(call -> answer.addParts(Part.newBuilder().setToolCall(call)));
    List<Message> said = new ArrayList<>(List.of(answer.build()));
    // The last call of an answer that ended otherwise may be cut off.
    if (reason == FinishReason.FINISH_REASON_TOOL_CALLS) {
      calls.forEach(call -> said.add(result(call.build())));
    }
    return said;
  }

  private static void add(ToolCallDelta piece, List<ToolCall.Builder> calls) {
    while (calls.size() <= piece.getIndex()) {
      calls.add(ToolCall.newBuilder());
    }
    ToolCall.Builder call = calls.get(piece.getIndex());
    call.setId(call.getId() + piece.getId());
    call.setName(call.getName() + piece.getName());
    call.setArgumentsJson(call.getArgumentsJson() + piece.getArgumentsJson());
  }

  private static Message result(ToolCall call) {
    ToolResult result = ToolResult.newBuilder().setCallId(call.getId()).setText(runTool(call)).build();
    return Message.newBuilder()
        .setRole(Role.ROLE_TOOL)
        .addParts(Part.newBuilder().setToolResult(result))
        .build();
  }

  private static Message question(String text, String image) throws IOException {
    Message.Builder turn = Message.newBuilder().setRole(Role.ROLE_USER);
    if (image != null) {
      ByteString data = ByteString.copyFrom(Files.readAllBytes(Path.of(image)));
      turn.addParts(Part.newBuilder().setImage(Image.newBuilder().setData(data)));
    }
    return turn.addParts(Part.newBuilder().setText(text)).build();
  }

  private void talk(Message question) {
    List<Message> turns = new ArrayList<>(List.of(question));
    while (turns.get(turns.size() - 1).getRole() != Role.ROLE_ASSISTANT) {
      turns.addAll(ask(turns));
    }
    System.out.println();
  }

  /** Says what went wrong: a failed call carries a code, a sentence and details, such as the wrong fields. */
  private static void report(StatusRuntimeException error) {
    Status status = error.getStatus();
    System.err.println(status.getCode() + ": " + status.getDescription());
    com.google.rpc.Status details = StatusProto.fromThrowable(error);
    if (details == null) {
      return;
    }
    for (Any detail : details.getDetailsList()) {
      if (detail.is(BadRequest.class)) {
        try {
          detail
              .unpack(BadRequest.class)
              .getFieldViolationsList()
              .forEach(wrong -> System.err.println("  " + wrong.getField() + ": " + wrong.getDescription()));
        } catch (InvalidProtocolBufferException broken) {
          System.err.println("  " + broken.getMessage());
        }
      }
    }
  }

  private static ChannelCredentials credentials(String ca) throws IOException {
    return ca == null
        ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
  }

  /** Exits with 0 when the question was answered, 1 when the call failed, and 2 after wrong usage. */
  public static void main(String[] arguments) throws Exception {
    String image = null;
    String ca = null;
    double seconds = 60;
    int next = 0;
    for (; next + 1 < arguments.length && arguments[next].startsWith("--"); next += 2) {
      switch (arguments[next]) {
        case "--image" -> image = arguments[next + 1];
        case "--ca" -> ca = arguments[next + 1];
        case "--timeout" -> seconds = Double.parseDouble(arguments[next + 1]);
        default -> next = arguments.length;
      }
    }
    if (arguments.length - next != 2) {
      System.err.println("usage: octet-example [--image FILE] [--ca FILE] [--timeout SECONDS] HOST:PORT TEXT");
      System.exit(2);
    }
    ManagedChannel channel =
        Grpc.newChannelBuilder(arguments[next], credentials(ca))
            .defaultServiceConfig(SERVICE_CONFIG)
            .enableRetry()
            .maxInboundMessageSize(MAX_MESSAGE_BYTES)
            // A server that vanished in the middle of a long answer is noticed.
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
    int exit = 0;
    try {
      new Example(channel, (long) (seconds * 1000)).talk(question(arguments[next + 1], image));
    } catch (StatusRuntimeException error) {
      report(error);
      exit = 1;
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    System.exit(exit);
  }
}
