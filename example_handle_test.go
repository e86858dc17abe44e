package runnel_test

import (
	"context"
	"fmt"
	"log"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

func ExampleHandle() {
	ctx := context.Background()
	node, err := embedded.Start(ctx, embedded.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close(ctx)
	nc, err := node.Connect(runnel.ConnectOptions("greeter")...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()

	// Any number of processes may answer for one name: each invocation comes to one of them.
	responder, err := runnel.Handle(nc, "greet", func(ctx context.Context, t *runnel.Task) error {
		if len(t.Command) == 0 {
			return &runnel.RejectedError{Text: "command: whom to greet?"}
		}
		_, err := fmt.Fprintf(t.Stdout, "hello %s\n", t.Command[0])
		return err
	}, runnel.WithConcurrency(4))
	if err != nil {
		log.Fatal(err)
	}
	defer responder.Close()

	client, err := runnel.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	for _, command := range [][]string{{"world"}, nil} {
		result, err := client.Run(ctx, runnel.Invocation{Kind: runnel.KindManual, Name: "greet", Command: command}, runnel.RunOptions{})
		if err != nil {
			log.Fatal(err)
		}
		for _, piece := range result.Tail {
			fmt.Printf("%s", piece.Data)
		}
		if result.Error != "" {
			fmt.Println(result.Error)
		}
		fmt.Println(result.Status)
	}
	// Output:
	// hello world
	// succeeded
	// command: whom to greet?
	// rejected
}

func ExampleClient_Answer() {
	ctx := context.Background()
	client, stop := start()
	defer stop()

	// Nobody listens for the name: it waits for a person.
	receipt, err := client.Submit(ctx, runnel.Invocation{Kind: runnel.KindManual, Name: "approval"})
	if err != nil {
		log.Fatal(err)
	}
	result, err := client.Answer(ctx, receipt.ID, runnel.ManualOutcome{Status: runnel.StatusFailed, Error: "not on a Friday"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Status, *result.ExitCode, result.Error)
	// Output: failed 1 not on a Friday
}
