package runnel_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
)

// A tool that somebody else's program wants run, again and again, over the same files. It needs a worker with a container
// engine.
func ExampleClient_OpenSandbox() {
	ctx := context.Background()
	nc, err := nats.Connect("nats://127.0.0.1:4222", runnel.ConnectOptions("tools")...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	client, err := runnel.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	box, err := client.OpenSandbox(ctx, runnel.Invocation{
		TimeoutSeconds: 3600,
		Container:      &runnel.Container{Image: "python:3.13", Sandbox: &runnel.SandboxLimits{IdleSeconds: 300}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, program := range []string{`open("n", "w").write("41")`, `print(int(open("n").read()) + 1)`} {
		result, err := box.Exec(ctx, runnel.ExecRequest{
			Command: []string{"python3", "-"}, Stdin: strings.NewReader(program), Stdout: os.Stdout, Stderr: os.Stderr, TimeoutSeconds: 30,
		})
		var ended *runnel.SandboxEndedError
		switch {
		case errors.As(err, &ended), errors.Is(err, runnel.ErrSandboxLost):
			log.Fatalf("open another: %v", err)
		case err != nil:
			log.Fatal(err)
		case result.Status != runnel.StatusSucceeded:
			fmt.Println(result.Status, result.Reason, result.Error)
		}
	}
	if _, err := box.Close(ctx); err != nil {
		log.Fatal(err)
	}
}

// What a second program may know of the first one's sandboxes.
func ExampleClient_Sandboxes() {
	client, stop := start()
	defer stop()
	ctx := context.Background()
	// No worker here has a container engine, so that it waits.
	receipt, err := client.Submit(ctx, runnel.Invocation{
		Kind: runnel.KindContainer, Name: "tools", Container: &runnel.Container{Image: "python:3.13", Sandbox: &runnel.SandboxLimits{}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for box, err := range client.Sandboxes(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(box.Name, box.Status)
	}
	result, err := client.Sandbox(receipt.ID).Close(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Status)
	// Output:
	// tools pending
	// cancelled
}

// A sandbox that has ended says how.
func ExampleSandbox_Exec() {
	client, stop := start()
	defer stop()
	ctx := context.Background()
	receipt, err := client.Submit(ctx, runnel.Invocation{
		Kind: runnel.KindContainer, Container: &runnel.Container{Image: "python:3.13", Sandbox: &runnel.SandboxLimits{}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Cancel(ctx, receipt.ID); err != nil {
		log.Fatal(err)
	}
	_, err = client.Sandbox(receipt.ID).Exec(ctx, runnel.ExecRequest{Command: []string{"true"}})
	var ended *runnel.SandboxEndedError
	fmt.Println(errors.As(err, &ended), ended.Result.Status)
	_, err = client.Sandbox("no-such-sandbox").Exec(ctx, runnel.ExecRequest{Command: []string{"true"}})
	fmt.Println(errors.Is(err, runnel.ErrNotFound))
	// Output:
	// true cancelled
	// true
}
