// Asks an Octet server a question and prints the answer as it streams; makes the tool calls that the model asks for,
// and gives it the results.
//
//	go run . [-image FILE] [-ca FILE] [-timeout DURATION] HOST:PORT TEXT
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	octetv1 "example.com/octet/gen/octet/v1"
)

// A refusal for want of room says when to come again, and a call of which nothing has arrived may be repeated.
const serviceConfig = `{
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
}`

// Many log probabilities do not fit into the usual 4 MiB, nor do pictures.
const maxMessageBytes = 64 << 20

var weather = &octetv1.Tool{
	Name:        "get_weather",
	Description: "Get the weather in a city.",
	ParametersJson: `{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}`,
}

func runTool(call *octetv1.ToolCall) (string, error) {
	if call.Name != weather.Name {
		return "", fmt.Errorf("the model asked for %s, which was not offered", call.Name)
	}
	var arguments struct{ City string }
	if err := json.Unmarshal([]byte(call.ArgumentsJson), &arguments); err != nil {
		return "", err
	}
	return fmt.Sprintf("It is sunny in %s.", arguments.City), nil
}

// connect opens a connection, encrypted when the file of an authority is given. One is enough for a program.
func connect(target, ca string) (*grpc.ClientConn, error) {
	encryption := insecure.NewCredentials()
	if ca != "" {
		var err error
		if encryption, err = credentials.NewClientTLSFromFile(ca, ""); err != nil {
			return nil, err
		}
	}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(encryption),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		// A server that vanished in the middle of a long answer is noticed.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
}

// ask prints the answer's text as it comes. It returns the answer as a turn to go on from, and the calls to make.
func ask(client octetv1.ChatServiceClient, turns []*octetv1.Message, timeout time.Duration) (
	*octetv1.Message, []*octetv1.ToolCall, error) {
	// The deadline reaches the engine, and so does leaving early: the model stops.
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if key := os.Getenv("OCTET_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	stream, err := client.StreamChat(ctx, &octetv1.ChatRequest{Messages: turns, Tools: []*octetv1.Tool{weather}})
	if err != nil {
		return nil, nil, err
	}
	var text strings.Builder
	var calls []*octetv1.ToolCall
	reason := octetv1.FinishReason_FINISH_REASON_UNSPECIFIED
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		for _, delta := range chunk.Deltas {
			fmt.Print(delta.Text)
			text.WriteString(delta.Text)
			for _, piece := range delta.ToolCalls {
				for int(piece.Index) >= len(calls) {
					calls = append(calls, &octetv1.ToolCall{})
				}
				call := calls[piece.Index]
				call.Id += piece.Id
				call.Name += piece.Name
				call.ArgumentsJson += piece.ArgumentsJson
			}
			if delta.FinishReason != octetv1.FinishReason_FINISH_REASON_UNSPECIFIED {
				reason = delta.FinishReason
			}
		}
	}
	answer := &octetv1.Message{Role: octetv1.Role_ROLE_ASSISTANT}
	if text.Len() > 0 {
		answer.Parts = append(answer.Parts, &octetv1.Part{Kind: &octetv1.Part_Text{Text: text.String()}})
	}
	for _, call := range calls {
		answer.Parts = append(answer.Parts, &octetv1.Part{Kind: &octetv1.Part_ToolCall{ToolCall: call}})
	}
	if reason != octetv1.FinishReason_FINISH_REASON_TOOL_CALLS {
		calls = nil // the last one of an answer that ended otherwise may be cut off
	}
	return answer, calls, nil
}

func question(text, image string) (*octetv1.Message, error) {
	turn := &octetv1.Message{Role: octetv1.Role_ROLE_USER}
	if image != "" {
		data, err := os.ReadFile(image)
		if err != nil {
			return nil, err
		}
		source := &octetv1.Image{Source: &octetv1.Image_Data{Data: data}}
		turn.Parts = append(turn.Parts, &octetv1.Part{Kind: &octetv1.Part_Image{Image: source}})
	}
	turn.Parts = append(turn.Parts, &octetv1.Part{Kind: &octetv1.Part_Text{Text: text}})
	return turn, nil
}

func result(call *octetv1.ToolCall) (*octetv1.Message, error) {
	text, err := runTool(call)
	if err != nil {
		return nil, err
	}
	given := &octetv1.ToolResult{CallId: call.Id, Result: &octetv1.ToolResult_Text{Text: text}}
	part := &octetv1.Part{Kind: &octetv1.Part_ToolResult{ToolResult: given}}
	return &octetv1.Message{Role: octetv1.Role_ROLE_TOOL, Parts: []*octetv1.Part{part}}, nil
}

func talk(target, text, image, ca string, timeout time.Duration) error {
	first, err := question(text, image)
	if err != nil {
		return err
	}
	connection, err := connect(target, ca)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := octetv1.NewChatServiceClient(connection)
	turns := []*octetv1.Message{first}
	for {
		answer, calls, err := ask(client, turns, timeout)
		if err != nil {
			return err
		}
		turns = append(turns, answer)
		for _, call := range calls {
			turn, err := result(call)
			if err != nil {
				return err
			}
			turns = append(turns, turn)
		}
		if len(calls) == 0 {
			fmt.Println()
			return nil
		}
	}
}

// report says what went wrong: a failed call carries a code, a sentence and details, such as the wrong fields.
func report(err error) {
	failed, isCall := status.FromError(err)
	if !isCall {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", failed.Code(), failed.Message())
	for _, detail := range failed.Details() {
		if bad, is := detail.(*errdetails.BadRequest); is {
			for _, violation := range bad.FieldViolations {
				fmt.Fprintf(os.Stderr, "  %s: %s\n", violation.Field, violation.Description)
			}
		}
	}
}

func main() {
	image := flag.String("image", "", "a picture to ask about")
	ca := flag.String("ca", "", "encrypt, trusting this authority (PEM)")
	timeout := flag.Duration("timeout", time.Minute, "until an answer is given up")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: octet-example [-image FILE] [-ca FILE] [-timeout DURATION] HOST:PORT TEXT")
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := talk(flag.Arg(0), flag.Arg(1), *image, *ca, *timeout); err != nil {
		report(err)
		os.Exit(1)
	}
}
